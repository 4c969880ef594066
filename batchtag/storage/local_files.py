"""Files of the local disk for `LocalStore` and its listing: paths, errors, etags, atomic replacement."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from batchtag.errors import Code, StorageError
from batchtag.storage.base import ObjectInfo
from batchtag.storage.uri import absolute_uri

_NO_SPACE = {errno.ENOSPC: "no space left on the device", errno.EDQUOT: "your disk quota is used up"}
_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN)


def path_of(uri: str) -> str:
    """Return the absolute path that a local URI means."""
    return absolute_uri(uri)


@contextlib.contextmanager
def explain_errors(uri: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the URI and what to do."""
    try:
        yield
    except OSError as error:
        raise storage_error(uri, error) from error
    except ValueError as error:  # an embedded NUL: no file has such a name
        raise StorageError(f"{uri!r}: {error}; no file can have this name", code=Code.NOT_FOUND) from error


def storage_error(uri: str, error: OSError) -> StorageError:
    """Build the StorageError for an OSError."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return StorageError(f"{uri}: {_NO_SPACE[error.errno]}; free some, then run the same command to resume")
    if error.errno in _NOT_FOUND:
        return StorageError(f"{uri}: {reason}", code=Code.NOT_FOUND)
    if error.errno in _DENIED:
        return StorageError(
            f"{uri}: {reason}; check the owner and the mode of the file and its folders", code=Code.DENIED
        )
    code = Code.TIMEOUT if error.errno == errno.ETIMEDOUT else Code.UNREACHABLE
    return StorageError(f"{uri}: {reason}", code=code, transient=error.errno in _TRANSIENT)


def etag_of(status: os.stat_result) -> str:
    """Return the etag of a file: its time of change and its size."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def modified_time(status: os.stat_result) -> datetime:
    """Return the time of the last change of a file, in UTC."""
    return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)


def object_info(uri: str, status: os.stat_result) -> ObjectInfo:
    """Build the record of a regular file."""
    return ObjectInfo(uri=uri, etag=etag_of(status), size_bytes=status.st_size, last_modified=modified_time(status))


def check_is_file(uri: str, status: os.stat_result) -> None:
    """Raise StorageError (`not_found`) if it is a folder, a pipe, a socket or a device."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise StorageError(f"{uri}: is {kind}, not a file", code=Code.NOT_FOUND)


@contextlib.contextmanager
def open_file(uri: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file to read; yield its descriptor and its status."""
    with explain_errors(uri):
        fd = os.open(path_of(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: a pipe must not block us
        try:
            status = os.fstat(fd)
            check_is_file(uri, status)
            yield fd, status
        finally:
            os.close(fd)


def read_bytes(fd: int, offset: int, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the file. One system call returns at most 2 GiB."""
    pieces = []
    while size > 0 and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextlib.contextmanager
def lock_file(uri: str) -> Iterator[None]:
    """Hold the lock file beside `uri`. It is never removed: two processes could then each lock a file of their own."""
    folder, name = os.path.split(path_of(uri))
    with explain_errors(uri):
        _make_folder(folder)
        fd = os.open(os.path.join(folder, f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def replace_file(uri: str, data: bytes, *, newer_than: os.stat_result | None) -> str:
    """Write `data` to `uri`, whole or not at all; return its etag.

    With `newer_than`, the new file gets a later time of change, so that its etag differs also within one clock tick.
    """
    path = path_of(uri)
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".batchtag-{secrets.token_hex(8)}.tmp")
    with explain_errors(uri):
        _make_folder(folder)
        try:
            # 1. Write the whole content under a temporary name.
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                if newer_than is not None and os.fstat(file.fileno()).st_mtime_ns <= newer_than.st_mtime_ns:
                    os.utime(file.fileno(), ns=(newer_than.st_mtime_ns + 1,) * 2)  # file clocks tick every 4 ms
                # 2. Sync it before the rename: after a power cut, the name must not point to an empty file.
                os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            # 3. The rename makes the new content visible; before it, readers see the old file.
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        # 4. Sync the folder, so that the rename itself survives a power cut.
        _sync_folder(folder)
    return etag_of(status)


def _make_folder(folder: str) -> None:
    """Create the folder and its parents; sync the parent of each, so that the new folder survives a power cut."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        _make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and user-space file systems cannot sync a folder
            raise
    finally:
        os.close(fd)

"""The local disk (or what is mounted there), with the promises of an object store.

A write goes to a temporary file in the same folder, is synced and renamed, so a reader or a kill meets a whole file.
The temporary name begins with a dot and ends in `.tmp`: no engine's glob takes it for a part, and `is_debris` knows it.
An etag is the time of change and the size; a file that changes while it is read is noticed by them, not by a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, cast

from batchtag.errors import Code, StorageError
from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import changed, cut_short, too_large
from batchtag.storage.parallel_listing import FolderPage, walk_folders
from batchtag.storage.uri import absolute_uri

PAGE_FILES = 1000
_LANES = 8
_DEBRIS = re.compile(r"(?:^|/)\.batchtag-[0-9a-f]{16}\.tmp\Z")
_NO_SPACE = {errno.ENOSPC: "no space left on the device", errno.EDQUOT: "your disk quota is used up"}
_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN)


def is_debris(name: str) -> bool:
    """Whether a file's name (or path) is that of a write a kill cut short; it may be removed when nobody writes."""
    return _DEBRIS.search(name) is not None


class LocalStore:
    """The local disk as a `Store`: a URI is an absolute path (a `file://` one is understood). Keeps no state."""

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        with _opened(uri) as (fd, found):
            _check_etag(uri, found, if_etag)
            if max_bytes is not None and found.st_size > max_bytes:
                raise too_large(uri, found.st_size, max_bytes)
            data = _read_all(fd, 0, found.st_size)
            _check_unchanged(uri, found, fd, len(data) == found.st_size)
        return Blob(data=data, etag=_etag(found), last_modified=_modified(found))

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        with _opened(uri) as (fd, found):
            _check_etag(uri, found, if_etag)
            if offset_bytes + size_bytes > found.st_size:
                raise cut_short(uri, offset_bytes, size_bytes, found.st_size)
            data = _read_all(fd, offset_bytes, size_bytes)
            _check_unchanged(uri, found, fd, len(data) == size_bytes)
        return Blob(data=data, etag=_etag(found), last_modified=_modified(found))

    def stat(self, uri: str) -> ObjectInfo:
        with _explained(uri):
            found = os.stat(_path(uri))
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{uri}: is {_kind(found)}, not a file", code=Code.NOT_FOUND)
        return _listed(uri, found)

    def write(self, uri: str, data: bytes) -> str:
        return _replace(uri, data, newer_than=None)

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        with _locked(uri):
            try:
                before = os.stat(_path(uri))
            except FileNotFoundError:
                before = None
            etag = ABSENT if before is None else _etag(before)
            if etag != expected:
                raise changed(uri, etag, expected)
            return _replace(uri, data, newer_than=before)

    def delete(self, uri: str) -> None:
        with _explained(uri), contextlib.suppress(FileNotFoundError):
            os.unlink(_path(uri))

    def open(self, uri: str) -> BinaryIO:
        self.stat(uri)
        with _explained(uri):
            return cast(BinaryIO, open(_path(uri), "rb"))

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        for page in _pages_of((_folder_of(uri), ())):
            if page.objects:
                yield page.objects

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        root: _Folder = (_folder_of(uri), ())
        return walk_folders(root, pages_of=_pages_of, lanes=_LANES)


def _path(uri: str) -> str:
    return absolute_uri(uri)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the URI and says what to do."""
    try:
        yield
    except OSError as error:
        raise _trouble(uri, error) from error
    except ValueError as error:  # an embedded NUL: no file has such a name
        raise StorageError(f"{uri!r}: {error}; no file can have this name", code=Code.NOT_FOUND) from error


def _trouble(uri: str, error: OSError) -> StorageError:
    reason = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return StorageError(f"{uri}: {_NO_SPACE[error.errno]}; free some and run again: it goes on where it stopped")
    if error.errno in _NOT_FOUND:
        return StorageError(f"{uri}: {reason}", code=Code.NOT_FOUND)
    if error.errno in _DENIED:
        return StorageError(
            f"{uri}: {reason}; check the owner and the mode of the file and its folders", code=Code.DENIED
        )
    code = Code.TIMEOUT if error.errno == errno.ETIMEDOUT else Code.UNREACHABLE
    return StorageError(f"{uri}: {reason}", code=code, transient=error.errno in _PASSING)


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[tuple[int, os.stat_result]]:
    with _explained(uri):
        fd = os.open(_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block us
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise StorageError(f"{uri}: is {_kind(found)}, not a file", code=Code.NOT_FOUND)
            yield fd, found
        finally:
            os.close(fd)


def _read_all(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file. One system call gives at most 2 GiB."""
    pieces = []
    while size > 0 and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_etag(uri: str, found: os.stat_result, expected: str) -> None:
    if expected and _etag(found) != expected:
        raise changed(uri, _etag(found), expected)


def _check_unchanged(uri: str, before: os.stat_result, fd: int, is_whole: bool) -> None:
    if not is_whole or _etag(os.fstat(fd)) != _etag(before):
        raise StorageError(f"{uri}: changed while it was read", code=Code.CHANGED, transient=True)


def _etag(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}"


def _modified(found: os.stat_result) -> datetime:
    return datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)


def _kind(found: os.stat_result) -> str:
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"


def _listed(uri: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri=uri, etag=_etag(found), size_bytes=found.st_size, last_modified=_modified(found))


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Holds the lock file beside `uri`. It is never removed: a lock that can vanish locks nobody out."""
    folder, name = os.path.split(_path(uri))
    with _explained(uri):
        _make_folder(folder)
        fd = os.open(os.path.join(folder, f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _replace(uri: str, data: bytes, *, newer_than: os.stat_result | None) -> str:
    """Put `data` in the place of `uri`, whole or not at all; its etag. It never has the time of `newer_than`."""
    path = _path(uri)
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".batchtag-{secrets.token_hex(8)}.tmp")
    with _explained(uri):
        _make_folder(folder)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                if newer_than is not None and os.fstat(file.fileno()).st_mtime_ns <= newer_than.st_mtime_ns:
                    os.utime(file.fileno(), ns=(newer_than.st_mtime_ns + 1,) * 2)  # clocks of files tick in 4 ms
                os.fsync(file.fileno())
                found = os.fstat(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)
    return _etag(found)


def _make_folder(folder: str) -> None:
    """The folder and its parents, each made known to the disk in the one above it."""
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


_Folder = tuple[bytes, tuple[tuple[int, int], ...]]
"""A path that ends in a slash, and (device, inode) of the folders above it, by which a loop of links is noticed."""


def _folder_of(uri: str) -> bytes:
    return os.path.join(os.fsencode(_path(uri)), b"")


def _pages_of(folder: _Folder) -> Iterator[FolderPage[_Folder]]:
    """What lies directly in a folder, in the order of the bytes of the paths (a folder counts with its slash)."""
    path, above = folder
    uri = _printable(path)
    with _explained(uri):
        found = os.stat(path)
        here = (found.st_dev, found.st_ino)
        if here in above:
            return
        with os.scandir(path) as entries:
            names = sorted(entry.name + b"/" if _is_folder(entry) else entry.name for entry in entries)
    for start in range(0, len(names), PAGE_FILES):
        page = names[start : start + PAGE_FILES]
        yield FolderPage(
            objects=[listed for name in page if name[-1:] != b"/" and (listed := _found(path + name))],
            folders=[(path + name, (*above, here)) for name in page if name[-1:] == b"/"],
        )


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _found(path: bytes) -> ObjectInfo | None:
    """What a listing says of one name; None for what is no file (a pipe, a socket, a device)."""
    uri = _printable(path)
    try:
        found = os.stat(path)
    except OSError as error:
        trouble = _trouble(uri, error)
        return ObjectInfo(uri=uri, problem=f"{trouble.code}: {trouble.message}")
    if not stat.S_ISREG(found.st_mode):
        return None
    if uri.encode() != path:
        problem = f"{Code.BAD_NAME}: the name is not UTF-8 (here with its bytes escaped); rename the file"
        return ObjectInfo(uri=uri, size_bytes=found.st_size, problem=problem)
    return _listed(uri, found)


def _printable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")

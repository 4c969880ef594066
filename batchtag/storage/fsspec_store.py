"""Every other scheme that fsspec opens: gs://, az://, https://, hdfs://, memory://.

fsspec cannot ask for one version of an object, so three guarantees are weaker here. `read` returns no etag ("", and
`pipeline/fetch.py` compares lengths instead). `if_etag` and `write_if` check first and act after that, with a moment
between. fsspec also normalises paths. A URI that would name another object after that is refused, because a wrong image
under a right name is worse than none.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import fsspec

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import etag_mismatch, no_folder, no_object, range_past_end, too_large
from batchtag.storage.fsspec_errors import EXTRAS, explain_error, request_errors, what_to_install
from batchtag.storage.parallel_listing import FolderPage, walk_folders
from batchtag.storage.ranged_file import open_ranged
from batchtag.storage.secrets import scrub, scrub_error

T = TypeVar("T")

PAGE_OBJECTS = 1000
"""Maximum number of entries in a page of a listing."""
_ATOMIC_WRITES = frozenset({*EXTRAS, "memory", "oss", "oci"})
_CREATE_IF_ABSENT = frozenset({"gs", "gcs", "memory"})
_ETAG_KEYS = ("ETag", "etag", "e_tag", "generation", "md5Hash")
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")

_shared: dict[tuple[int, str, str], FsspecStore] = {}
_shared_lock = threading.Lock()


class FsspecStore:
    """A file system of fsspec as a `Store`. A listing holds one whole folder in memory: fsspec has no pages."""

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        """Raise StorageError if no installed package opens the scheme; the message says what to install."""
        self._scheme = scheme
        self._options = dict(options)
        try:
            self._fs = fsspec.filesystem(scheme, **self._options)
        except (ImportError, ValueError, TypeError) as error:
            if isinstance(error, ImportError) or scheme not in fsspec.available_protocols():
                raise StorageError(what_to_install(scheme, error)) from error
            raise StorageError(scrub(f"{scheme}:// cannot be opened: {error}", self._options)) from error

    @classmethod
    def shared(cls, scheme: str, options: Mapping[str, Any]) -> FsspecStore:
        """Return this process's store for these options. Connections do not survive a fork, hence one per process."""
        key = (os.getpid(), scheme, json.dumps(options, sort_keys=True, default=repr))
        with _shared_lock:
            if key not in _shared:
                _shared[key] = cls(scheme, options)
            return _shared[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (FsspecStore.shared, (self._scheme, self._options))

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        path = self._path(uri)
        self._check_etag(uri, if_etag)
        if max_bytes is None:
            return Blob(data=self._call(uri, lambda: self._fs.cat_file(path)), etag=if_etag)
        try:
            data = self._call(uri, lambda: self._fs.cat_file(path, start=0, end=max_bytes + 1))
        except StorageError as error:
            # Some file systems refuse every range of an empty object.
            may_be_empty = not error.transient and error.code in (Code.UNREACHABLE, Code.TRUNCATED)
            if not may_be_empty or self.stat(uri).size_bytes != 0:
                raise
            data = b""
        if len(data) > max_bytes:
            raise too_large(uri, self.stat(uri).size_bytes, max_bytes)
        return Blob(data=data, etag=if_etag)

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        path = self._path(uri)
        self._check_etag(uri, if_etag)
        end = offset_bytes + size_bytes
        data = self._call(uri, lambda: self._fs.cat_file(path, start=offset_bytes, end=end)) if size_bytes else b""
        if len(data) != size_bytes:
            raise range_past_end(uri, offset_bytes, size_bytes, offset_bytes + len(data))
        return Blob(data=data, etag=if_etag)

    def stat(self, uri: str) -> ObjectInfo:
        path = self._path(uri)
        entry = self._call(uri, lambda: self._fs.info(path))
        if entry.get("type") == "directory":
            raise no_object(uri)
        return _object_info(uri, entry)

    def write(self, uri: str, data: bytes) -> str:
        path = self._path(uri)
        if self._scheme in ("http", "https"):
            raise StorageError(
                f"{uri}: a web server cannot be written to; choose a folder or a bucket", code=Code.DENIED
            )
        if self._scheme in _ATOMIC_WRITES:
            self._call(uri, lambda: self._fs.pipe_file(path, data))
        else:
            self._call(uri, lambda: self._write_and_move(path, data))
        return self.stat(uri).etag

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        path = self._path(uri)
        try:
            etag = self.stat(uri).etag
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            etag = ABSENT
        if etag != expected:
            raise etag_mismatch(uri, etag, expected)
        if expected != ABSENT or self._scheme not in _CREATE_IF_ABSENT:
            return self.write(uri, data)
        try:
            self._call(uri, lambda: self._fs.pipe_file(path, data, mode="create"))
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise ConditionFailed(f"{uri}: another process created it at the same time") from error
            raise
        return self.stat(uri).etag

    def delete(self, uri: str) -> None:
        path = self._path(uri)
        try:
            self._call(uri, lambda: self._fs.rm_file(path))
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    def open(self, uri: str) -> BinaryIO:
        return open_ranged(self, uri)

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        for page in self._list_pages(_as_folder(uri), is_root=True):
            if page.objects:
                yield page.objects

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        root = _as_folder(uri)
        return walk_folders(root, pages_of=lambda folder: self._list_pages(folder, is_root=folder == root))

    def _list_pages(self, folder: str, *, is_root: bool) -> Iterator[FolderPage[str]]:
        """Yield the entries directly in a folder URI, in the order of the bytes of their names.

        The name of a folder ends in a slash.
        """
        path = str(self._fs._strip_protocol(folder)).rstrip("/")
        try:
            entries = self._call(folder, lambda: self._fs.ls(path, detail=True))
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            if is_root:
                raise no_folder(folder) from error
            return
        finally:
            self._fs.invalidate_cache()  # fsspec would keep every listing in memory, and answer `info` from it
        by_name = {}
        for entry in entries:
            name = entry["name"].removeprefix(f"{path}/")
            if name != entry["name"] and name:
                by_name[name.rstrip("/") + "/" if entry["type"] == "directory" else name] = entry
        names = sorted(by_name, key=lambda name: name.encode("utf-8", "surrogatepass"))
        for start in range(0, len(names), PAGE_OBJECTS):
            page = names[start : start + PAGE_OBJECTS]
            yield FolderPage(
                objects=[_object_info(folder + name, by_name[name]) for name in page if not name.endswith("/")],
                folders=[folder + name for name in page if name.endswith("/")],
            )

    def _path(self, uri: str) -> str:
        """Return fsspec's path of the object. Raises StorageError if that path is another object than the URI names.

        `_strip_protocol` is private by its name only: fsspec documents it as the method that file systems override.
        """
        key = uri.partition("://")[2].partition("/")[2]
        path = str(self._fs._strip_protocol(uri))
        if not key:
            raise no_object(uri)
        if path != key and not path.endswith(f"/{key}"):
            message = f"{uri}: fsspec would read {path!r}, which is another object; rename it, or read it through S3"
            raise StorageError(message, code=Code.BAD_NAME)
        return path

    def _check_etag(self, uri: str, expected: str) -> None:
        if expected and (actual := self.stat(uri).etag) != expected:
            raise etag_mismatch(uri, actual, expected)

    def _write_and_move(self, path: str, data: bytes) -> None:
        """Write a temporary file and rename it, for file systems where a kill could leave half a file."""
        folder = path.rpartition("/")[0]
        temporary = f"{folder}/.batchtag-{secrets.token_hex(8)}.tmp"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.pipe_file(temporary, data)
        self._fs.mv(temporary, path)

    def _call(self, uri: str, function: Callable[[], T]) -> T:
        """Call fsspec once. Raises StorageError, without secrets."""
        try:
            return function()
        except request_errors() as error:
            raise scrub_error(explain_error(uri, error), self._options) from error


def _as_folder(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"


def _object_info(uri: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """Build the record of an entry of `info` or `ls`. Each file system has its own names for the etag and the time."""
    modified = next((time for key in _TIME_KEYS if (time := _parse_time(entry.get(key)))), None)
    size = entry.get("size")
    etag = next((str(entry[key]).strip('"') for key in _ETAG_KEYS if entry.get(key)), "")
    if not etag and modified is not None:
        etag = f"{int(modified.timestamp() * 1e6):x}-{size or 0:x}"
    return ObjectInfo(uri=uri, etag=etag, size_bytes=-1 if size is None else size, last_modified=modified)


def _parse_time(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return None

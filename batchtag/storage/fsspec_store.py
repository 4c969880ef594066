"""Any other place that fsspec opens: gs://, az://, https://, hdfs://, memory://.

fsspec has no word for "this version", so three promises are weaker here: `read` knows no etag (it gives "", and `fetch`
compares lengths), `if_etag` and `write_if` look before they act, with a moment between. fsspec also normalises paths; a
URI that would name another object after that is refused, because a wrong image under a right name is worse than none.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import fsspec

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import changed, cut_short, no_folder, no_object, too_large
from batchtag.storage.parallel_listing import FolderPage, walk_folders
from batchtag.storage.ranged_file import open_ranged
from batchtag.storage.secrets import scrub, scrubbed

T = TypeVar("T")

PAGE_OBJECTS = 1000
_PACKAGES = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}
"""Schemes of the package's extras, and the extra's name."""
_WRITES_WHOLE = frozenset({*_PACKAGES, "memory", "oss", "oci"})
_CREATES_ONLY = frozenset({"gs", "gcs", "memory"})
_ETAG_KEYS = ("ETag", "etag", "e_tag", "generation", "md5Hash")
_TIME_KEYS = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")

_shared: dict[tuple[int, str, str], AnyStore] = {}
_shared_lock = threading.Lock()


class AnyStore:
    """A file system of fsspec as a `Store`. Its listings hold one folder at a time in memory: fsspec gives no pages."""

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        """Raises StorageError if nothing installed opens the scheme, and says what to install."""
        self._scheme = scheme
        self._options = dict(options)
        try:
            self._fs = fsspec.filesystem(scheme, **self._options)
        except (ImportError, ValueError, TypeError) as error:
            if isinstance(error, ImportError) or scheme not in fsspec.available_protocols():
                raise StorageError(_what_to_install(scheme, error)) from error
            raise StorageError(scrub(f"{scheme}:// cannot be opened: {error}", self._options)) from error

    @classmethod
    def shared(cls, scheme: str, options: Mapping[str, Any]) -> AnyStore:
        """This process's store for these options; connections do not survive a fork."""
        key = (os.getpid(), scheme, json.dumps(options, sort_keys=True, default=repr))
        with _shared_lock:
            if key not in _shared:
                _shared[key] = cls(scheme, options)
            return _shared[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (AnyStore.shared, (self._scheme, self._options))

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        path = self._path(uri)
        self._check_etag(uri, if_etag)
        if max_bytes is None:
            return Blob(data=self._run(uri, lambda: self._fs.cat_file(path)), etag=if_etag)
        try:
            data = self._run(uri, lambda: self._fs.cat_file(path, start=0, end=max_bytes + 1))
        except StorageError as error:
            # some refuse any range of an empty object
            if (
                error.transient
                or error.code not in (Code.UNREACHABLE, Code.TRUNCATED)
                or self.stat(uri).size_bytes != 0
            ):
                raise
            data = b""
        if len(data) > max_bytes:
            raise too_large(uri, self.stat(uri).size_bytes, max_bytes)
        return Blob(data=data, etag=if_etag)

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        path = self._path(uri)
        self._check_etag(uri, if_etag)
        end = offset_bytes + size_bytes
        data = self._run(uri, lambda: self._fs.cat_file(path, start=offset_bytes, end=end)) if size_bytes else b""
        if len(data) != size_bytes:
            raise cut_short(uri, offset_bytes, size_bytes, offset_bytes + len(data))
        return Blob(data=data, etag=if_etag)

    def stat(self, uri: str) -> ObjectInfo:
        path = self._path(uri)
        found = self._run(uri, lambda: self._fs.info(path))
        if found.get("type") == "directory":
            raise no_object(uri)
        return _listed(uri, found)

    def write(self, uri: str, data: bytes) -> str:
        path = self._path(uri)
        if self._scheme in ("http", "https"):
            raise StorageError(f"{uri}: a web server is not written to; choose a folder or a bucket", code=Code.DENIED)
        if self._scheme in _WRITES_WHOLE:
            self._run(uri, lambda: self._fs.pipe_file(path, data))
        else:
            self._run(uri, lambda: self._write_and_move(path, data))
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
            raise changed(uri, etag, expected)
        if expected != ABSENT or self._scheme not in _CREATES_ONLY:
            return self.write(uri, data)
        try:
            self._run(uri, lambda: self._fs.pipe_file(path, data, mode="create"))
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise ConditionFailed(f"{uri}: somebody else created it just now") from error
            raise
        return self.stat(uri).etag

    def delete(self, uri: str) -> None:
        path = self._path(uri)
        try:
            self._run(uri, lambda: self._fs.rm_file(path))
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    def open(self, uri: str) -> BinaryIO:
        return open_ranged(self, uri)

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        for page in self._pages_of(_folder(uri), is_root=True):
            if page.objects:
                yield page.objects

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        root = _folder(uri)
        return walk_folders(root, pages_of=lambda folder: self._pages_of(folder, is_root=folder == root))

    def _pages_of(self, folder: str, *, is_root: bool) -> Iterator[FolderPage[str]]:
        """What lies directly in a folder URI, in the order of the bytes of the names (a folder's with a slash)."""
        path = str(self._fs._strip_protocol(folder)).rstrip("/")
        try:
            entries = self._run(folder, lambda: self._fs.ls(path, detail=True))
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            if is_root:
                raise no_folder(folder) from error
            return
        finally:
            self._fs.invalidate_cache()  # fsspec would hold every listing, and answer `info` from it
        found = {}
        for entry in entries:
            name = entry["name"].removeprefix(f"{path}/")
            if name != entry["name"] and name:
                found[name.rstrip("/") + "/" if entry["type"] == "directory" else name] = entry
        names = sorted(found, key=lambda name: name.encode("utf-8", "surrogatepass"))
        for start in range(0, len(names), PAGE_OBJECTS):
            page = names[start : start + PAGE_OBJECTS]
            yield FolderPage(
                objects=[_listed(folder + name, found[name]) for name in page if not name.endswith("/")],
                folders=[folder + name for name in page if name.endswith("/")],
            )

    def _path(self, uri: str) -> str:
        """What fsspec calls the object. Raises StorageError if that would be another object than the URI names."""
        key = uri.partition("://")[2].partition("/")[2]
        path = str(self._fs._strip_protocol(uri))
        if not key:
            raise no_object(uri)
        if path != key and not path.endswith(f"/{key}"):
            message = f"{uri}: fsspec would read {path!r}, which is another object; rename it, or read it through S3"
            raise StorageError(message, code=Code.BAD_NAME)
        return path

    def _check_etag(self, uri: str, expected: str) -> None:
        if expected and (found := self.stat(uri).etag) != expected:
            raise changed(uri, found, expected)

    def _write_and_move(self, path: str, data: bytes) -> None:
        """For file systems where a kill could leave half a file."""
        folder = path.rpartition("/")[0]
        temporary = f"{folder}/.batchtag-{secrets.token_hex(8)}.tmp"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.pipe_file(temporary, data)
        self._fs.mv(temporary, path)

    def _run(self, uri: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except _trouble() as error:
            raise scrubbed(_explain(uri, error), self._options) from error


def _folder(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"


def _what_to_install(scheme: str, error: Exception) -> str:
    extra = _PACKAGES.get(scheme)
    if extra is None:
        return f"{scheme}:// needs a package that is not installed: {error}"
    package = {"gcs": "gcsfs", "azure": "adlfs"}[extra]
    return f"{package} is not installed, and {scheme}:// needs it: pip install 'batchtag[{extra}]'"


_ROOTS = (
    ("aiohttp", "ClientError"),
    ("requests.exceptions", "RequestException"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""What the packages behind fsspec raise besides Python's own; looked up only where such a package is loaded."""


def _trouble() -> tuple[type[Exception], ...]:
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in _ROOTS)
    return (OSError, RuntimeError, ValueError, EOFError, *(kind for kind in loaded if kind is not None))


def _explain(uri: str, error: Exception) -> StorageError:
    said = " ".join(str(error).split()) or type(error).__name__
    status = _http_status(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or status == 404:
        return no_object(uri)
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageError(f"{uri}: access denied: {said}; check the credentials", code=Code.DENIED)
    if status == 416:
        return StorageError(f"{uri}: ends before the range that was asked for; it is truncated", code=Code.TRUNCATED)
    if status in (429, 503):
        return StorageError(f"{uri}: asked to slow down: {said}", code=Code.THROTTLED, transient=True)
    if isinstance(error, TimeoutError) or status in (408, 504):
        return StorageError(f"{uri}: no answer in time: {said}", code=Code.TIMEOUT, transient=True)
    is_passing = status >= 500 if status else not isinstance(error, RuntimeError | ValueError | FileExistsError)
    return StorageError(f"{uri}: {said}", code=Code.UNREACHABLE, transient=is_passing)


def _http_status(error: Exception) -> int:
    """The HTTP status some packages put into their errors, under three names; 0 if there is none."""
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 0


def _listed(uri: str, found: Mapping[str, Any]) -> ObjectInfo:
    modified = next((when for key in _TIME_KEYS if (when := _time(found.get(key)))), None)
    size = found.get("size")
    etag = next((str(found[key]).strip('"') for key in _ETAG_KEYS if found.get(key)), "")
    if not etag and modified is not None:
        etag = f"{int(modified.timestamp() * 1e6):x}-{size or 0:x}"
    return ObjectInfo(uri=uri, etag=etag, size_bytes=-1 if size is None else size, last_modified=modified)


def _time(value: object) -> datetime | None:
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

"""The file system through which DuckDB reads the listed files of outputs, and nothing else.

DuckDB accepts a file system of fsspec. This one implements only the calls that DuckDB makes, all of them for reading.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.retry import WRITES, with_retries

SCHEME = "batchtag"
TAIL_BYTES = 256 * 1024
"""Number of bytes at the end of a file that are read in one request: the Parquet footer, and all of a small part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedFile:
    """A file as it was listed, and the store to read it from."""

    info: ObjectInfo
    store: Store


class ListedFiles(AbstractFileSystem):  # type: ignore[misc]
    """A read-only file system of listed files, by path without the scheme (`0/images/part-...`).

    The mapping may grow after construction. A path that is not in it does not exist.
    """

    protocol = SCHEME
    cachable = False

    def __init__(self, files: Mapping[str, ListedFile]) -> None:
        super().__init__()
        self._files = files

    def open(self, path: str, mode: str = "rb", **options: Any) -> _ListedFileReader:
        if mode != "rb":
            raise PermissionError(f"{path}: tables are opened for reading only, got the mode {mode!r}")
        return _ListedFileReader(self._file(path))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": self._file(path).info.size_bytes, "type": "file"}

    def glob(self, path: str, **options: Any) -> list[str]:
        return [path] if self.exists(path) else []

    def exists(self, path: str, **options: Any) -> bool:
        return self._strip_protocol(path) in self._files

    def modified(self, path: str) -> datetime:
        return self._file(path).info.last_modified or datetime.fromtimestamp(0, UTC)

    def _file(self, path: str) -> ListedFile:
        try:
            return self._files[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(f"{path}: is not a listed file of an output") from None


class _ListedFileReader(io.RawIOBase):
    """One open file; safe to read from DuckDB's threads.

    DuckDB (2.0) reads row groups of one file from several threads through one handle, as a seek and then a read without
    a lock around the two. With a common position, one thread received the bytes of another. So each thread has its own
    position.
    """

    def __init__(self, file: ListedFile) -> None:
        super().__init__()
        self._info = file.info
        self._store = file.store
        self._by_thread = threading.local()
        self._tail_start = max(0, file.info.size_bytes - TAIL_BYTES)
        self._tail = b""
        self._tail_lock = threading.Lock()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return getattr(self._by_thread, "position", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._info.size_bytes}[whence]
        self._by_thread.position = start + offset
        return start + offset

    def read(self, size: int = -1, /) -> bytes:
        start = self.tell()
        remaining = max(0, self._info.size_bytes - start)
        data = self._read_at(start, remaining if size < 0 else min(size, remaining))
        self._by_thread.position = start + len(data)
        return data

    def _read_at(self, start: int, size: int) -> bytes:
        if start < self._tail_start:
            return self._fetch(start, size)
        with self._tail_lock:
            if not self._tail:
                self._tail = self._fetch(self._tail_start, self._info.size_bytes - self._tail_start)
        return self._tail[start - self._tail_start :][:size]

    def _fetch(self, start: int, size: int) -> bytes:
        uri, etag = self._info.uri, self._info.etag
        return with_retries(lambda: self._store.read_range(uri, start, size, if_etag=etag), policy=WRITES)[0].data

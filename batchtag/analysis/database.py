"""OUT's tables as DuckDB views, over committed parts only: what `query` and `verify` stand on.

DuckDB reads the parts through our own store, as `batchtag://images/part-...`, local ones too: 5 million tags in 0.3 s
instead of 0.2 s, and in return there is one way for every store, credentials stay out of SQL, no extension has to be
downloaded, and a path with quotes, spaces or `*?[` in it is never taken for SQL or a glob.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem

from batchtag.errors import Code, StorageError, UsageError
from batchtag.output.layout import PART_PREFIX, PART_SUFFIX, Layout, part_of_uri
from batchtag.output.schemas import TABLES
from batchtag.storage import Store, join_uri
from batchtag.storage.base import ObjectInfo
from batchtag.storage.local import is_debris
from batchtag.storage.retry import WRITES, with_retries

SCHEME = "batchtag"
TAIL_BYTES = 256 * 1024
"""The end of a part, read in one go: the footer is there, and a small part is all there."""


def no_tables(out: str) -> UsageError:
    """The error for an OUT that no run has written, or that is none."""
    return UsageError(f"{out}: holds no tables of batchtag (no _batchtag/index.json); name the --out of a run")


class Database:
    """The files under one OUT as they were listed, and a DuckDB connection that can read them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, store: Store, layout: Layout) -> None:
        self.connection = connection
        self.layout = layout
        self.store = store
        self._files: dict[str, ObjectInfo] = {}
        connection.register_filesystem(_OutFiles(self._files, store=store))
        # images first: a part that is committed while we list then has its tags and errors in the listings after it
        self.listed = {table: self._list(table) for table in TABLES}
        self.parts = {table: _parts(files.values()) for table, files in self.listed.items()}
        """The parts of each table by id, committed or not."""

    def _list(self, table: str) -> dict[str, ObjectInfo]:
        found: dict[str, ObjectInfo] = {}
        try:
            for page in self.store.list_folder(self.layout.table(table)):
                found |= {file.uri.rsplit("/", 1)[-1]: file for file in page if not is_debris(file.uri)}
        except StorageError as error:
            if error.code is not Code.NOT_FOUND:
                raise
        self._files |= {join_uri(table, name): file for name, file in found.items()}
        return found

    def add_file(self, path: str, found: ObjectInfo) -> None:
        """Make another file under OUT readable, by its path there."""
        self._files[path] = found

    def define(self, table: str, parts: Iterable[str]) -> None:
        """The view `table` over these of its parts; with none it is empty, but has its columns."""
        paths = [join_uri(table, f"{PART_PREFIX}{part}{PART_SUFFIX}") for part in sorted(parts)]
        if paths:
            self.connection.execute(f"create view {table} as from {parquet(paths)}")
        else:
            empty: pa.Table = TABLES[table].empty_table()
            self.connection.register(table, empty)


def _parts(files: Iterable[ObjectInfo]) -> dict[str, ObjectInfo]:
    return {part: file for file in files if (part := part_of_uri(file.uri))}


def parquet(paths: Iterable[str], **options: bool) -> str:
    """SQL for files under OUT that were listed. Paths are ours (`images/part-<digits>.parquet`): nothing to escape."""
    files = ", ".join(f"'{SCHEME}://{path}'" for path in paths)
    more = "".join(f", {name} = {str(value).lower()}" for name, value in options.items())
    return f"read_parquet([{files}]{more})"


@contextmanager
def open_database(*, store: Store, layout: Layout) -> Iterator[Database]:
    """A database of its own, in memory; what does not fit goes to a temporary folder. Raises StorageError."""
    with tempfile.TemporaryDirectory(prefix="batchtag-duckdb-") as folder:
        connection = duckdb.connect(config={"temp_directory": folder})
        try:
            yield Database(connection, store=store, layout=layout)
        finally:
            connection.close()


class _OutFiles(AbstractFileSystem):  # type: ignore[misc]
    """As much of a file system as DuckDB asks of one. It opens what was listed, and nothing else."""

    protocol = SCHEME
    cachable = False

    def __init__(self, files: Mapping[str, ObjectInfo], *, store: Store) -> None:
        super().__init__()
        self._files = files
        self._store = store

    def open(self, path: str, mode: str = "rb", **options: Any) -> _Handle:
        if mode != "rb":
            raise PermissionError(f"{path}: the tables are only read here")
        return _Handle(self._found(path), store=self._store)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": self._found(path).size_bytes, "type": "file"}

    def glob(self, path: str, **options: Any) -> list[str]:
        return [path] if self.exists(path) else []

    def exists(self, path: str, **options: Any) -> bool:
        return self._strip_protocol(path) in self._files

    def modified(self, path: str) -> datetime:
        return self._found(path).last_modified or datetime.fromtimestamp(0, UTC)

    def _found(self, path: str) -> ObjectInfo:
        try:
            return self._files[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(f"{path}: is no part of this OUT") from None


class _Handle(io.RawIOBase):
    """One part, opened by DuckDB; safe to read from its threads.

    DuckDB (2.0) reads row groups of one file from several threads through one handle, as a seek and then a read, with
    nothing to keep them together: a common position gave one thread another's bytes. So each thread has its own.
    """

    def __init__(self, found: ObjectInfo, *, store: Store) -> None:
        super().__init__()
        self._found = found
        self._store = store
        self._at = threading.local()
        self._tail_from = max(0, found.size_bytes - TAIL_BYTES)
        self._tail = b""
        self._tail_lock = threading.Lock()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return getattr(self._at, "position", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._found.size_bytes}[whence]
        self._at.position = start + offset
        return start + offset

    def read(self, size: int = -1, /) -> bytes:
        start = self.tell()
        left = max(0, self._found.size_bytes - start)
        wanted = left if size < 0 else min(size, left)
        data = self._bytes_at(start, wanted)
        self._at.position = start + len(data)
        return data

    def _bytes_at(self, start: int, size: int) -> bytes:
        if start < self._tail_from:
            return self._fetch(start, size)
        with self._tail_lock:
            if not self._tail:
                self._tail = self._fetch(self._tail_from, self._found.size_bytes - self._tail_from)
        return self._tail[start - self._tail_from :][:size]

    def _fetch(self, start: int, size: int) -> bytes:
        uri, etag = self._found.uri, self._found.etag
        return with_retries(lambda: self._store.read_range(uri, start, size, if_etag=etag), policy=WRITES)[0].data

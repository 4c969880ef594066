"""A file to seek in, for any store: what pyarrow needs to read a footer and one row group of a large Parquet file.

Written once over `stat` and `read_range`, because s3fs's and fsspec's own files normalise the path, read 50 MiB ahead
and retry by themselves. All ranges are of the one version that `open_ranged` saw; another version is ConditionFailed.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from batchtag.storage.base import Blob, ObjectInfo

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 256 * 1024
"""One request brings at least this much: a footer and its tail in one, and small column chunks together."""


class RangedStore(Protocol):
    """The part of a store that a file to seek in needs."""

    def stat(self, uri: str) -> ObjectInfo: ...

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob: ...


def open_ranged(store: RangedStore, uri: str) -> BinaryIO:
    """The object as a seekable, buffered, read-only file. Raises StorageError here, and from its reads."""
    found = store.stat(uri)
    return cast(BinaryIO, io.BufferedReader(_RangedFile(store, found), buffer_size=BUFFER_BYTES))


class _RangedFile(io.RawIOBase):
    def __init__(self, store: RangedStore, found: ObjectInfo) -> None:
        self._store = store
        self._found = found
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._found.size_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"{self._found.uri}: cannot seek to {start + offset}, before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), self._found.size_bytes - self._position)
        if size <= 0:
            return 0
        blob = self._store.read_range(self._found.uri, self._position, size, if_etag=self._found.etag)
        view[: len(blob.data)] = blob.data
        self._position += len(blob.data)
        return len(blob.data)

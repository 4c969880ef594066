"""An object of any store as a seekable file.

pyarrow needs one to read the footer and one row group of a large Parquet file; sources read manifests and tar headers
through one. It is written once, over `stat` and `read_range`, because the files of s3fs and fsspec normalise the path,
read 50 MiB ahead and retry by themselves. All ranges are of the version of the object that was opened; for another
version the reads raise ConditionFailed, so a file never mixes two uploads.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.retry import WRITES, RetryPolicy, with_retries

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 256 * 1024
"""Minimum size of one request, in bytes: enough for a footer and its tail, or for several small column chunks."""
_ONE_ATTEMPT = RetryPolicy(attempts=1)


class RangedStore(Protocol):
    """The part of a `Store` that a seekable file needs."""

    def stat(self, uri: str) -> ObjectInfo: ...

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob: ...


def open_ranged(store: RangedStore, uri: str) -> BinaryIO:
    """Open an object as a seekable, buffered, read-only file. Every read is one attempt. Raises StorageError."""
    return _open(store.stat(uri), store=store, buffer_bytes=BUFFER_BYTES, policy=_ONE_ATTEMPT)


def open_with_retries(info: ObjectInfo, *, store: RangedStore, buffer_bytes: int) -> BinaryIO:
    """Open the version `info` of an object as a seekable file, read `buffer_bytes` at a time, each read retried.

    For listings that read for an hour and must survive a reset connection. A failed read is repeated as often as a
    write (`retry.WRITES`), because the whole listing depends on it. Reads raise StorageError.
    """
    return _open(info, store=store, buffer_bytes=buffer_bytes, policy=WRITES)


def _open(info: ObjectInfo, *, store: RangedStore, buffer_bytes: int, policy: RetryPolicy) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_RangedFile(info, store=store, policy=policy), buffer_size=buffer_bytes))


class _RangedFile(io.RawIOBase):
    def __init__(self, info: ObjectInfo, *, store: RangedStore, policy: RetryPolicy) -> None:
        self._info = info
        self._store = store
        self._policy = policy
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._info.size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError(f"{self._info.uri}: cannot seek to {origin + offset}, before the beginning")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), self._info.size_bytes - self._position)
        if size <= 0:
            return 0
        blob = self._read_range(size)
        view[: len(blob.data)] = blob.data
        self._position += len(blob.data)
        return len(blob.data)

    def _read_range(self, size_bytes: int) -> Blob:
        def read() -> Blob:
            return self._store.read_range(self._info.uri, self._position, size_bytes, if_etag=self._info.etag)

        return with_retries(read, policy=self._policy)[0]

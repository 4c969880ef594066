"""A stored object as a file to seek in, every read of it retried and of one version of the object.

A listing that reads for an hour must outlive a reset connection, and must not stitch a manifest together from two
uploads of it. `Store.open` promises the second only.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from batchtag.storage import Store
from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.ranged_file import open_ranged
from batchtag.storage.retry import WRITES, with_retries


def open_patiently(found: ObjectInfo, *, store: Store, buffer_bytes: int) -> BinaryIO:
    """The object as `stat` or a listing found it, fetched `buffer_bytes` at a time.

    Reads raise StorageError, and ConditionFailed when the object is no longer the one that was found.
    """
    ranged = open_ranged(_Patient(found, store=store), found.uri)
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, ranged), buffer_bytes))


class _Patient:
    """One object of a store, asked for again when that may help; as often as for a write, for as much depends on it."""

    def __init__(self, found: ObjectInfo, *, store: Store) -> None:
        self._found = found
        self._store = store

    def stat(self, uri: str) -> ObjectInfo:
        return self._found

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        def read() -> Blob:
            return self._store.read_range(uri, offset_bytes, size_bytes, if_etag=if_etag)

        return with_retries(read, policy=WRITES)[0]

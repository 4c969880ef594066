"""The bytes of one image: the size limit, the retries, and what happens when an object changed after the listing.

An image that was replaced after it was indexed is taken as it is now, with its new etag: asking for the old version
would turn every new upload into a failure. A member of a shard is the exception, because its offset means nothing in
another tar file. Normally one GET per image. The retry policy is `storage.retry.READS`. Runs in the worker's loader
threads.
"""

from __future__ import annotations

from dataclasses import replace

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage import Blob, Store
from batchtag.storage.errors import too_large
from batchtag.storage.retry import READS, RetryPolicy, with_retries
from batchtag.types import ImageRef


def fetch(ref: ImageRef, *, store: Store, max_bytes: int, policy: RetryPolicy = READS) -> Blob:
    """Return the content of `ref` with the number of attempts. The caller has handled a `ref.problem`.

    Raises StorageError with `code` and `attempts`. If the listing shows that the object is empty or too large, no
    request is made.
    """
    if ref.size_bytes == 0:
        raise _empty_error(ref)
    if ref.size_bytes > max_bytes:
        raise too_large(ref.uri, ref.size_bytes, max_bytes)

    def read_once() -> Blob:
        return _read_member(ref, store) if ref.shard else _read_object(ref, store, max_bytes)

    blob, attempts = with_retries(read_once, policy=policy)
    return replace(blob, attempts=attempts)


def _read_object(ref: ImageRef, store: Store, max_bytes: int) -> Blob:
    blob = store.read(ref.uri, max_bytes=max_bytes)
    if not blob.data:
        raise _empty_error(ref)
    if blob.etag or ref.size_bytes < 0:
        return blob
    if len(blob.data) == ref.size_bytes:
        return replace(blob, etag=ref.etag, last_modified=ref.last_modified)
    return _with_current_etag(ref, store, blob)


def _with_current_etag(ref: ImageRef, store: Store, blob: Blob) -> Blob:
    """Ask for the etag when the store gives none with the bytes, and their number differs from the listing."""
    info = store.stat(ref.uri)
    if info.size_bytes != len(blob.data):
        message = f"{ref.uri}: returned {len(blob.data):,} bytes, and has {info.size_bytes:,}; it keeps changing"
        raise StorageError(message, code=Code.CHANGED, transient=True)
    return replace(blob, etag=info.etag, last_modified=info.last_modified)


def _read_member(ref: ImageRef, store: Store) -> Blob:
    try:
        return store.read_range(ref.shard, ref.offset_bytes, ref.size_bytes, if_etag=ref.etag)
    except ConditionFailed as error:
        message = f"{ref.uri}: {ref.shard} changed since it was indexed; choose another --out, which indexes it again"
        raise StorageError(message, code=Code.CHANGED) from error


def _empty_error(ref: ImageRef) -> StorageError:
    return StorageError(f"{ref.uri}: has no bytes; upload it again", code=Code.EMPTY)

"""The bytes of one image: how much may be read, what to try again, and what to do about an object that changed.

An image that was replaced since it was indexed is taken as it is now, with its new etag: asking for the old version
would turn every re-upload into a failure. A member of a shard is the exception, since its offset means nothing in
another tar. One GET an image in the normal case. Runs in the worker's fetch threads.
"""

from __future__ import annotations

from dataclasses import replace

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage import Store
from batchtag.storage.base import Blob
from batchtag.storage.errors import too_large
from batchtag.storage.retry import READS, RetryPolicy, with_retries
from batchtag.types import ImageRef


def fetch(ref: ImageRef, *, store: Store, max_bytes: int, policy: RetryPolicy = READS) -> Blob:
    """The content of `ref`, its `attempts` counted. The caller has dealt with a `ref.problem`.

    Raises StorageError with `code` and `attempts`; `empty` and `too_large` without a request if the listing shows it.
    """
    if ref.size_bytes == 0:
        raise _empty(ref)
    if ref.size_bytes > max_bytes:
        raise too_large(ref.uri, ref.size_bytes, max_bytes)

    def once() -> Blob:
        return _member(ref, store) if ref.shard else _whole(ref, store, max_bytes)

    blob, attempts = with_retries(once, policy=policy)
    return replace(blob, attempts=attempts)


def _whole(ref: ImageRef, store: Store, max_bytes: int) -> Blob:
    blob = store.read(ref.uri, max_bytes=max_bytes)
    if not blob.data:
        raise _empty(ref)
    if blob.etag or ref.size_bytes < 0:
        return blob
    if len(blob.data) == ref.size_bytes:
        return replace(blob, etag=ref.etag, last_modified=ref.last_modified)
    return _as_it_is_now(ref, store, blob)


def _as_it_is_now(ref: ImageRef, store: Store, blob: Blob) -> Blob:
    """For a store that gives no etag with the bytes, when their number is not what the listing said."""
    found = store.stat(ref.uri)
    if found.size_bytes != len(blob.data):
        message = f"{ref.uri}: gave {len(blob.data):,} bytes, and has {found.size_bytes:,}; it keeps changing"
        raise StorageError(message, code=Code.CHANGED, transient=True)
    return replace(blob, etag=found.etag, last_modified=found.last_modified)


def _member(ref: ImageRef, store: Store) -> Blob:
    try:
        return store.read_range(ref.shard, ref.offset_bytes, ref.size_bytes, if_etag=ref.etag)
    except ConditionFailed as error:
        message = f"{ref.uri}: {ref.shard} changed since it was indexed; choose another --out, which indexes it again"
        raise StorageError(message, code=Code.CHANGED) from error


def _empty(ref: ImageRef) -> StorageError:
    return StorageError(f"{ref.uri}: has no bytes; upload it again", code=Code.EMPTY)

"""S3 and everything that speaks like it, as a store.

A key is used as it stands, byte for byte: `s3://b//x`, `s3://b/x/` and `s3://b/x?versionId=1` are three objects. Every
call is one request, except listings: their pages are retried here, because a listing of 100,000 pages cannot be begun
again for one that did not come.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import cut_short, no_object, short_body, too_large
from batchtag.storage.ranged_file import open_ranged
from batchtag.storage.retry import READS, RetryPolicy
from batchtag.storage.s3.client import S3Client, as_it_is
from batchtag.storage.s3.fast_reads import QuickReads
from batchtag.storage.s3.listing import S3Listing, etag_of, listed, parts_of

_shared: dict[tuple[int, str], S3Store] = {}
_shared_lock = threading.Lock()


class S3Store:
    """One S3 service with one set of credentials as a `Store`. Holds connections: one a process, see `shared`."""

    def __init__(
        self, options: Mapping[str, Any], *, list_policy: RetryPolicy = READS, reads_quickly: bool = True
    ) -> None:
        self._client = S3Client(options)
        self._quick = QuickReads(self._client.way_to if reads_quickly else lambda bucket: None)
        self._list_policy = list_policy

    @classmethod
    def shared(cls, options: Mapping[str, Any]) -> S3Store:
        """This process's store for these options. Connections do not survive a fork, so each process has its own."""
        key = (os.getpid(), json.dumps(options, sort_keys=True, default=repr))
        with _shared_lock:
            if key not in _shared:
                _shared[key] = cls(options)
            return _shared[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (S3Store.shared, (self._client.options,))

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        bucket, key = _object(uri)
        blob = self._quick.read(bucket, key, max_bytes=max_bytes, if_etag=if_etag)
        if blob is not None:
            return blob
        get = partial(_body, uri=uri, max_bytes=max_bytes)
        blob = self._client.call("get_object", uri=uri, bucket=bucket, use=get, Key=key, **_if_match(if_etag))
        self._quick.could(bucket, key)
        return blob

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        if size_bytes == 0:
            return Blob(data=b"", etag=if_etag)
        bucket, key = _object(uri)
        quick = self._quick.read(bucket, key, span=(offset_bytes, offset_bytes + size_bytes), if_etag=if_etag)
        if quick is not None:
            return quick
        span = f"bytes={offset_bytes}-{offset_bytes + size_bytes - 1}"
        get = partial(_body, uri=uri, max_bytes=size_bytes)
        blob = self._client.call(
            "get_object", uri=uri, bucket=bucket, use=get, Key=key, Range=span, **_if_match(if_etag)
        )
        if len(blob.data) != size_bytes:
            raise cut_short(uri, offset_bytes, size_bytes, offset_bytes + len(blob.data))
        self._quick.could(bucket, key)
        return blob

    def warm_up(self, uri: str) -> None:
        """Find credentials and region, so that the first reads of that bucket need not: a second of a core."""
        self._quick.get_ready(parts_of(uri)[1])

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = _object(uri)
        found = self._client.call("head_object", uri=uri, bucket=bucket, use=as_it_is, Key=key)
        return listed(uri, {**found, "Size": found["ContentLength"]})

    def write(self, uri: str, data: bytes) -> str:
        bucket, key = _object(uri)
        return etag_of(self._client.call("put_object", uri=uri, bucket=bucket, use=as_it_is, Key=key, Body=data))

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        bucket, key = _object(uri)
        condition = {"IfNoneMatch": "*"} if expected == ABSENT else _if_match(expected)
        answer = self._client.call("put_object", uri=uri, bucket=bucket, use=as_it_is, Key=key, Body=data, **condition)
        return etag_of(answer)

    def delete(self, uri: str) -> None:
        bucket, key = _object(uri)
        self._client.call("delete_object", uri=uri, bucket=bucket, use=as_it_is, Key=key)

    def open(self, uri: str) -> BinaryIO:
        return open_ranged(self, uri)

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        return S3Listing(self._client, uri, policy=self._list_policy).folder()

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        return S3Listing(self._client, uri, policy=self._list_policy).walk()


def _object(uri: str) -> tuple[str, str]:
    """Bucket and key. Raises StorageError for the URI of a bucket."""
    _, bucket, key = parts_of(uri)
    if not key:
        raise no_object(uri)
    return bucket, key


def _if_match(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


async def _body(answer: dict[str, Any], *, uri: str, max_bytes: int | None) -> Blob:
    """The whole body. Runs on the event loop; closing a body that is not read to its end drops the connection."""
    body, size = answer["Body"], answer.get("ContentLength")
    try:
        if max_bytes is not None and size is not None and size > max_bytes:
            raise too_large(uri, size, max_bytes)
        data = await body.read() if size is not None or max_bytes is None else await _at_most(body, uri, max_bytes)
    finally:
        body.close()
    if size is not None and len(data) != size:
        raise short_body(uri, len(data), size)
    return Blob(data=data, etag=etag_of(answer), last_modified=answer.get("LastModified"))


async def _at_most(body: Any, uri: str, max_bytes: int) -> bytes:
    """A body that comes in chunks of which nobody said how many."""
    data = bytearray()
    while piece := await body.read(max_bytes + 1 - len(data)):
        data += piece
        if len(data) > max_bytes:
            raise too_large(uri, len(data), max_bytes)
    return bytes(data)

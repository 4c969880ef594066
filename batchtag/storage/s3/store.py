"""S3, and every service with its protocol, as a store.

A key is used byte for byte: `s3://b//x`, `s3://b/x/` and `s3://b/x?versionId=1` are three objects. Every call makes one
request, except for listings. The pages of a listing are retried here, because a listing of 100,000 pages cannot be
restarted for one page that failed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import incomplete_body, no_object, range_past_end, too_large
from batchtag.storage.ranged_file import open_ranged
from batchtag.storage.retry import READS, RetryPolicy
from batchtag.storage.s3.client import S3Client, return_response
from batchtag.storage.s3.fast_reads import FastReader
from batchtag.storage.s3.listing import S3Listing, etag_of, object_info, split_uri

_shared: dict[tuple[int, str], S3Store] = {}
_shared_lock = threading.Lock()


class S3Store:
    """One S3 service with one set of credentials as a `Store`. Holds connections: use `shared`, one per process."""

    def __init__(
        self, options: Mapping[str, Any], *, list_policy: RetryPolicy = READS, use_fast_reads: bool = True
    ) -> None:
        self._client = S3Client(options)
        self._fast_reader = FastReader(self._client.bucket_access if use_fast_reads else lambda bucket: None)
        self._list_policy = list_policy

    @classmethod
    def shared(cls, options: Mapping[str, Any]) -> S3Store:
        """Return this process's store for these options. Connections do not survive a fork, hence one per process."""
        key = (os.getpid(), json.dumps(options, sort_keys=True, default=repr))
        with _shared_lock:
            if key not in _shared:
                _shared[key] = cls(options)
            return _shared[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (S3Store.shared, (self._client.options,))

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        bucket, key = _bucket_and_key(uri)
        fast = self._fast_reader.read(bucket, key, max_bytes=max_bytes, if_etag=if_etag)
        if fast is not None:
            return fast
        blob = self._get(uri, max_bytes=max_bytes, **_if_match(if_etag))
        self._fast_reader.count_failure(bucket, key)
        return blob

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        if size_bytes == 0:
            return Blob(data=b"", etag=if_etag)
        bucket, key = _bucket_and_key(uri)
        end_bytes = offset_bytes + size_bytes
        fast = self._fast_reader.read(bucket, key, span=(offset_bytes, end_bytes), if_etag=if_etag)
        if fast is not None:
            return fast
        blob = self._get(uri, max_bytes=size_bytes, Range=f"bytes={offset_bytes}-{end_bytes - 1}", **_if_match(if_etag))
        if len(blob.data) != size_bytes:
            raise range_past_end(uri, offset_bytes, size_bytes, offset_bytes + len(blob.data))
        self._fast_reader.count_failure(bucket, key)
        return blob

    def warm_up(self, uri: str) -> None:
        """Find the credentials and the region for a bucket, a CPU second that its first reads then need not spend."""
        self._fast_reader.prepare_bucket(split_uri(uri)[1])

    def stat(self, uri: str) -> ObjectInfo:
        head = self._request("head_object", uri)
        return object_info(uri, {**head, "Size": head["ContentLength"]})

    def write(self, uri: str, data: bytes) -> str:
        return etag_of(self._request("put_object", uri, Body=data))

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        condition = {"IfNoneMatch": "*"} if expected == ABSENT else _if_match(expected)
        return etag_of(self._request("put_object", uri, Body=data, **condition))

    def delete(self, uri: str) -> None:
        self._request("delete_object", uri)

    def open(self, uri: str) -> BinaryIO:
        return open_ranged(self, uri)

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        return S3Listing(self._client, uri, policy=self._list_policy).folder()

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        return S3Listing(self._client, uri, policy=self._list_policy).walk()

    def _get(self, uri: str, *, max_bytes: int | None, **arguments: Any) -> Blob:
        bucket, key = _bucket_and_key(uri)
        read_body = partial(_read_body, uri=uri, max_bytes=max_bytes)
        return self._client.request("get_object", uri=uri, bucket=bucket, read_response=read_body, Key=key, **arguments)

    def _request(self, method: str, uri: str, **arguments: Any) -> dict[str, Any]:
        bucket, key = _bucket_and_key(uri)
        return self._client.request(method, uri=uri, bucket=bucket, read_response=return_response, Key=key, **arguments)


def _bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key. Raises StorageError for a URI without a key."""
    _, bucket, key = split_uri(uri)
    if not key:
        raise no_object(uri)
    return bucket, key


def _if_match(etag: str) -> dict[str, str]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


async def _read_body(response: dict[str, Any], *, uri: str, max_bytes: int | None) -> Blob:
    """Read the whole body. Runs on the event loop; closing a body before its end drops the connection."""
    body, size = response["Body"], response.get("ContentLength")
    try:
        if max_bytes is not None and size is not None and size > max_bytes:
            raise too_large(uri, size, max_bytes)
        data = await body.read() if size is not None or max_bytes is None else await _read_at_most(body, uri, max_bytes)
    finally:
        body.close()
    if size is not None and len(data) != size:
        raise incomplete_body(uri, len(data), size)
    return Blob(data=data, etag=etag_of(response), last_modified=response.get("LastModified"))


async def _read_at_most(body: Any, uri: str, max_bytes: int) -> bytes:
    """Read a chunked body, whose length the response does not state."""
    data = bytearray()
    while piece := await body.read(max_bytes + 1 - len(data)):
        data += piece
        if len(data) > max_bytes:
            raise too_large(uri, len(data), max_bytes)
    return bytes(data)

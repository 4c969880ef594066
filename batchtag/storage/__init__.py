"""Bytes in and out of any URI, and the retries around them.

A store is one place that URIs point into: the local disk, S3, or whatever fsspec opens. URIs are used exactly as they
are: a local one is an absolute path, `s3://bucket/` is followed by the key and nothing is unquoted, stripped or
normalised, because keys with `%`, `#`, `?`, a leading or a trailing slash are different objects. (fsspec and s3fs do
normalise, so S3 has a store of its own that calls s3fs's client with bucket and key.) This room knows no images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Protocol

from batchtag.records import Blob, ListedImage
from batchtag.storage.json_files import read_json
from batchtag.storage.uris import absolute_uri, join_uri, scheme_of

__all__ = ["ABSENT", "Store", "absolute_uri", "join_uri", "open_store", "read_json", "scheme_of"]

ABSENT = "absent"
"""What `write_if` expects when the object must not exist yet."""


class Store(Protocol):
    """One place that URIs point into. Safe to use from many threads.

    1. Every call is one attempt. Trouble is a StorageError whose `code` names it and whose `transient` says whether
       trying again may help; `retry.with_retries` is what tries again.
    2. `read` gives the whole object with the etag of exactly these bytes; more than `max_bytes` is `too_large`, and
       is noticed before it is in memory. With `if_etag`, another version of the object is ConditionFailed.
    3. `write` is atomic: a reader sees the old object, or the new one, whole; a kill leaves one of the two.
    4. `write_if` writes only if the object's etag is `expected` (ABSENT: if there is none), else ConditionFailed.
    5. `list_folder` gives what lies directly under a folder URI, sorted, in pages of bounded size; `walk` gives all
       objects under it, recursively, folders listed in parallel, in an order that depends on nothing but the keys.
       Both give zero-byte "folder marker" keys (ending in "/") to nobody. A folder that does not exist is not_found.
    """

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob: ...

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob: ...

    def stat(self, uri: str) -> ListedImage: ...

    def write(self, uri: str, data: bytes) -> str: ...

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str: ...

    def delete(self, uri: str) -> None: ...

    def open(self, uri: str) -> BinaryIO: ...

    def list_folder(self, uri: str) -> Iterator[list[ListedImage]]: ...

    def walk(self, uri: str) -> Iterator[list[ListedImage]]: ...


def open_store(uri: str, options: Mapping[str, Any] | None = None) -> Store:
    """The store a URI points into. `options` are fsspec storage options: credentials, endpoint, region.

    Raises StorageError for a scheme that nothing installed can open, and says what to install.
    """
    match scheme_of(uri):
        case "file":
            from batchtag.storage.local import LocalStore

            return LocalStore()
        case "s3" | "s3a":
            from batchtag.storage.s3 import S3Store

            return S3Store.shared(options or {})
        case scheme:
            from batchtag.storage.anyfs import AnyStore

            return AnyStore.shared(scheme, options or {})


def warm_up(uri: str, options: Mapping[str, Any] | None = None) -> None:
    """Find what the first read of that URI would have to: a second of a core on S3, nothing elsewhere."""
    if scheme_of(uri) in ("s3", "s3a"):
        from batchtag.storage.s3 import S3Store

        S3Store.shared(options or {}).warm_up(uri)

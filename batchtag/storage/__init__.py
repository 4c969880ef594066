"""Bytes in and out of any URI, and the retries around them.

A store is one place that URIs point into: the local disk, S3, or whatever fsspec opens. URIs are used exactly as they
are: a local one is an absolute path, `s3://bucket/` is followed by the key and nothing is unquoted, stripped or
normalised, because keys with `%`, `#`, `?`, a leading or a trailing slash are different objects. (fsspec and s3fs do
normalise, so S3 has a store of its own that calls s3fs's client with bucket and key.) This room knows no images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchtag.storage.base import ABSENT, Blob, ObjectInfo, Store
from batchtag.storage.json_io import read_json
from batchtag.storage.uri import absolute_uri, join_uri, scheme_of

__all__ = ["ABSENT", "Blob", "ObjectInfo", "Store", "absolute_uri", "join_uri", "open_store", "read_json", "scheme_of"]


def open_store(uri: str, options: Mapping[str, Any] | None = None) -> Store:
    """The store a URI points into. `options` are fsspec storage options: credentials, endpoint, region.

    Raises StorageError for a scheme that nothing installed can open, and says what to install.
    """
    match scheme_of(uri):
        case "file":
            from batchtag.storage.local import LocalStore

            return LocalStore()
        case "s3" | "s3a":
            from batchtag.storage.s3.store import S3Store

            return S3Store.shared(options or {})
        case scheme:
            from batchtag.storage.fsspec_store import AnyStore

            return AnyStore.shared(scheme, options or {})


def warm_up(uri: str, options: Mapping[str, Any] | None = None) -> None:
    """Find what the first read of that URI would have to: a second of a core on S3, nothing elsewhere."""
    if scheme_of(uri) in ("s3", "s3a"):
        from batchtag.storage.s3.store import S3Store

        S3Store.shared(options or {}).warm_up(uri)

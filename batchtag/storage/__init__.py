"""Read and write the bytes behind any URI.

A store gives access to one place that URIs point into: the local disk, S3, or anything that fsspec opens. URIs are used
exactly as given. A local URI is an absolute path; `s3://bucket/` is followed by the key. Nothing is unquoted, stripped
or normalised, because keys with `%`, `#`, `?`, a leading slash or a trailing slash are different objects. (fsspec and
s3fs do normalise, so S3 has its own store, which calls s3fs's client with bucket and key.) This package knows nothing
of images. Retries are configured in `storage/retry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchtag.storage.base import ABSENT, Blob, ObjectInfo, Store
from batchtag.storage.json_io import read_json
from batchtag.storage.uri import absolute_uri, join_uri, scheme_of

__all__ = ["ABSENT", "Blob", "ObjectInfo", "Store", "absolute_uri", "join_uri", "open_store", "read_json", "scheme_of"]


def open_store(uri: str, options: Mapping[str, Any] | None = None) -> Store:
    """Return the store that a URI points into. `options` are fsspec storage options: credentials, endpoint, region.

    S3 and fsspec stores are shared: one per process and options. Raises StorageError for a scheme that no installed
    package opens; the message says what to install.
    """
    match scheme_of(uri):
        case "file":
            from batchtag.storage.local import LocalStore

            return LocalStore()
        case "s3" | "s3a":
            from batchtag.storage.s3.store import S3Store

            return S3Store.shared(options or {})
        case scheme:
            from batchtag.storage.fsspec_store import FsspecStore

            return FsspecStore.shared(scheme, options or {})


def warm_up(uri: str, options: Mapping[str, Any] | None = None) -> None:
    """Do the work of a first read in advance: about a second of CPU time on S3, nothing for other stores."""
    if scheme_of(uri) in ("s3", "s3a"):
        from batchtag.storage.s3.store import S3Store

        S3Store.shared(options or {}).warm_up(uri)

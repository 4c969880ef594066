"""Fast reads of S3 objects: obstore (Rust) makes the first attempt of a GET.

Where images are small and models are light, botocore's Python takes much of a core: 1.2 ms for a GET of 80 KB, obstore
0.25 ms. obstore only comes first, and never alone. It makes one attempt, with the address, region and credentials that
s3fs's client found (`bucket_access.py`), for ordinary keys in ordinary buckets. Anything but a plain success is
requested again by that client, which knows what the error means. When obstore failed in a bucket and the client
succeeded, three times in a row, the client alone reads that bucket from then on.

Workarounds for obstore 0.12.1:
- after a fork its threads do not run (`_forked`): until obstore starts new ones in a child process;
- it refuses keys such as `a//b` or `.` (`is_ordinary_key`): until obstore takes keys byte for byte;
- a response without Last-Modified has the time 0 (`_NO_TIME`): until obstore returns None.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from botocore import UNSIGNED
from obstore.exceptions import BaseError
from obstore.store import S3Store

from batchtag.storage.base import Blob
from batchtag.storage.s3.bucket_access import BucketAccess

_ORDINARY_KEY = re.compile(r"[A-Za-z0-9_\-=+,@() .]+(/[A-Za-z0-9_\-=+,@() .]+)*")
_ORDINARY_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]*")
_EXPRESS_SUFFIX = "--x-s3"
_NO_TIME = datetime.fromtimestamp(0, UTC)
"""What obstore returns for a response without Last-Modified."""
_MAX_FAILURES = 3
"""Failures in a row after which a bucket is read without obstore."""
_CREDENTIALS_VALID_FOR = timedelta(minutes=4)
"""Time for which obstore keeps credentials before it asks for them again; botocore refreshes them in time."""
_TOTAL_TIMEOUT_S = 60.0
"""Timeout of one object. A longer download is restarted by s3fs's client, which has a longer timeout."""
_ONE_ATTEMPT: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=60)}
_forked = threading.Event()
"""Set in a forked child. Rust's threads do not survive a fork: the child would wait for its first response forever."""
os.register_at_fork(after_in_child=_forked.set)


@dataclass
class _Bucket:
    """A bucket and its failures in a row. `store` is None if obstore does not read it."""

    store: S3Store | None
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class FastReader:
    """Reads objects with obstore where that is possible. Safe to use from many threads, not across a fork."""

    def __init__(self, find_access: Callable[[str], BucketAccess | None]) -> None:
        """`find_access` returns how a bucket is accessed; None for a bucket that the other client has to read."""
        self._find_access = find_access
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def read(
        self,
        bucket: str,
        key: str,
        *,
        max_bytes: int | None = None,
        span: tuple[int, int] | None = None,
        if_etag: str = "",
    ) -> Blob | None:
        """Read an object, or its bytes from `span[0]` up to `span[1]`; None if the other client has to read it."""
        store = self._obstore_of(bucket) if is_ordinary_key(key) and not _forked.is_set() else None
        if store is None:
            return None
        options: Any = {}
        if span:
            options["range"] = span
        if if_etag:
            options["if_match"] = f'"{if_etag}"'
        try:
            response = obstore.get(store, key, options=options)
            meta = response.meta
            expected_bytes = span[1] - span[0] if span else meta["size"]
            if max_bytes is not None and expected_bytes > max_bytes:
                return None
            data = bytes(response.bytes())
        except (BaseError, OSError):
            return None
        if len(data) != expected_bytes:
            return None
        self._buckets[bucket].failures = 0
        modified = None if meta["last_modified"] == _NO_TIME else meta["last_modified"]
        return Blob(data=data, etag=(meta["e_tag"] or "").strip('"'), last_modified=modified)

    def count_failure(self, bucket: str, key: str) -> None:
        """Record that the other client could read an object that this one could not."""
        if is_ordinary_key(key) and (known := self._buckets.get(bucket)):
            with known.lock:
                known.failures += 1
                if known.failures >= _MAX_FAILURES:
                    known.store = None

    def prepare_bucket(self, bucket: str) -> None:
        """Find the access to a bucket before its first object is read."""
        if not _forked.is_set():
            self._obstore_of(bucket)

    def _obstore_of(self, bucket: str) -> S3Store | None:
        known = self._buckets.get(bucket)
        if known is None:
            with self._lock:
                known = self._buckets.setdefault(bucket, _Bucket(self._open_bucket(bucket)))
        return known.store

    def _open_bucket(self, bucket: str) -> S3Store | None:
        if not _ORDINARY_BUCKET.fullmatch(bucket) or bucket.endswith(_EXPRESS_SUFFIX):
            return None
        access = self._find_access(bucket)
        if access is None or not (access.signature is UNSIGNED or access.signature in ("s3v4", "v4")):
            return None
        try:
            return open_obstore(bucket, access)
        except (BaseError, ValueError, TypeError):
            return None


def is_ordinary_key(key: str) -> bool:
    """Whether obstore certainly requests a key as it stands. It refuses some (`a//b`, `.`); others are not tried."""
    return bool(_ORDINARY_KEY.fullmatch(key)) and not {".", ".."} & set(key.split("/"))


def open_obstore(bucket: str, access: BucketAccess) -> S3Store:
    """Open a bucket with obstore. Raises ValueError if its URL has the bucket neither in the host nor as the path."""
    url = urlsplit(access.url_of_x)
    is_bucket_in_host = url.netloc.startswith(f"{bucket}.")
    if not is_bucket_in_host and url.path != f"/{bucket}/x":
        raise ValueError(f"{url.netloc}{url.path} is not an address of bucket {bucket}")
    is_signed = access.signature is not UNSIGNED

    def provide_credentials() -> Any:
        access_key, secret_key, token = access.get_credentials()
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_VALID_FOR,
        }

    return S3Store(
        bucket,
        config={
            "endpoint": f"{url.scheme}://{url.netloc}",
            "region": access.region,
            "virtual_hosted_style_request": is_bucket_in_host,
            "skip_signature": not is_signed,
        },
        client_options={
            "allow_http": url.scheme == "http",
            "connect_timeout": timedelta(seconds=access.connect_timeout_s),
            "read_timeout": timedelta(seconds=access.read_timeout_s),
            "timeout": timedelta(seconds=_TOTAL_TIMEOUT_S),
        },
        retry_config=_ONE_ATTEMPT,
        credential_provider=provide_credentials if is_signed else None,
    )

"""The endpoint, region and credentials of a bucket, as s3fs's client would use them, for a second client.

This is a workaround, written for s3fs 2026.9.0, aiobotocore 3.10.0 and botocore 1.43.117.
- Endpoint: botocore has no public function that applies all of its rules (endpoint variables, profiles, addressing
  style, access points, FIPS, dual stack) to one object. So a GET of the key `x` is signed, but not sent; the URL of
  the signed request shows the host, and whether the bucket is part of it.
- Credentials: they come from a private attribute of the client, because a client has no public one for the credentials
  that it refreshes.
It can go when obstore resolves profiles and endpoints as botocore does, or when botocore's GET is quick enough to do
without obstore (see `fast_reads.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import s3fs

from batchtag.storage.s3.s3fs_internals import request_arguments


@dataclass(frozen=True, kw_only=True)
class BucketAccess:
    """How requests for objects of one bucket are addressed and signed.

    `url_of_x` is the URL, signed or not, of the object with the key `x`. `signature` is botocore's signature version.
    `get_credentials` returns (access key, secret key, token or None) and may block while credentials are refreshed.
    `read_timeout_s` limits the time without any byte, not the whole request.
    """

    url_of_x: str
    region: str
    signature: Any
    get_credentials: Callable[[], tuple[str, str, str | None]]
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0


async def find_bucket_access(fs: s3fs.S3FileSystem, bucket: str, *, timeout_s: float) -> BucketAccess | None:
    """Return the access to a bucket; None if its requests need more than an address and a signature.

    `fs` must be connected. Runs on the event loop of `fs`; `get_credentials` must be called from another thread.
    """
    client = await fs.get_s3(bucket)
    config = client.meta.config
    url: str = await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
    arguments = request_arguments(fs, client.get_object, Bucket=bucket, Key="x")
    has_extra_arguments = set(arguments) != {"Bucket", "Key"}
    has_own_tls = fs.client_kwargs.get("verify") is not None or config.client_cert or "AWS_CA_BUNDLE" in os.environ
    if has_extra_arguments or (has_own_tls and url.startswith("https:")) or config.proxies:
        return None
    credentials = client._request_signer._credentials

    def get_credentials() -> tuple[str, str, str | None]:
        frozen = asyncio.run_coroutine_threadsafe(credentials.get_frozen_credentials(), fs.loop).result(timeout_s)
        return frozen.access_key, frozen.secret_key, frozen.token

    return BucketAccess(
        url_of_x=url,
        region=client.meta.region_name,
        signature=config.signature_version,
        get_credentials=get_credentials,
        connect_timeout_s=config.connect_timeout,
        read_timeout_s=config.read_timeout,
    )

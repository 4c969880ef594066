"""One request to S3: s3fs's client, called with the exact bucket and key, once.

s3fs finds credentials, profiles, endpoints and storage options in the way its users know, and keeps the connections.
Its own calls, however, strip slashes off keys, cut keys at `?versionId=` and make five attempts. (One retry remains:
aiohttp's, for a kept-alive connection that turns out to be closed.) Coroutines run on s3fs's event loop, which is one
thread for the whole process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import s3fs

from batchtag.errors import StorageError
from batchtag.storage.s3.bucket_access import BucketAccess, find_bucket_access
from batchtag.storage.s3.errors import REQUEST_ERRORS, explain_error
from batchtag.storage.s3.s3fs_internals import request_arguments, set_timestamp_parser
from batchtag.storage.secrets import scrub_error

T = TypeVar("T")

TOTAL_TIMEOUT_S = 600.0
"""Timeout of one whole request. The others notice neither a body that trickles nor a wait for a free connection."""
_CONFIG = {"max_pool_connections": 128, "connect_timeout": 10, "read_timeout": 30}
_ONE_ATTEMPT = {"total_max_attempts": 1}


async def return_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response unchanged: the `read_response` of requests whose response has no body to read."""
    return response


class S3Client:
    """The connections to one service with one set of credentials. Safe to use from many threads, not across a fork."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raise StorageError if s3fs does not accept the options. The first request connects."""
        self.options = dict(options)
        self._has_timestamp_parser = False
        config = {**_CONFIG, **self.options.get("config_kwargs", {}), "retries": _ONE_ATTEMPT}
        try:
            self._fs = s3fs.S3FileSystem(**{**self.options, "config_kwargs": config}, skip_instance_cache=True)
        except (TypeError, ValueError, KeyError) as error:
            raise self._options_error(error) from error

    def request(
        self,
        method: str,
        *,
        uri: str,
        bucket: str,
        read_response: Callable[[dict[str, Any]], Awaitable[T]],
        **arguments: Any,
    ) -> T:
        """Send one request and return what `read_response` makes of the response. Raises StorageError.

        `method` is a method of botocore's S3 client, such as `get_object`. `uri` is only for messages.
        """
        request = self._request(method, bucket, read_response, arguments)
        try:
            return asyncio.run_coroutine_threadsafe(request, self._fs.loop).result()
        except StorageError as error:
            raise scrub_error(error, self.options) from error.__cause__
        except REQUEST_ERRORS as error:
            raise scrub_error(explain_error(uri, bucket, error), self.options) from error

    def bucket_access(self, bucket: str) -> BucketAccess | None:
        """Return how objects of a bucket are addressed and signed; None if requests need more than that."""
        try:
            return asyncio.run_coroutine_threadsafe(self._bucket_access(bucket), self._fs.loop).result()
        except (StorageError, AttributeError, *REQUEST_ERRORS):
            return None  # the first read raises the same error, with its explanation

    async def _bucket_access(self, bucket: str) -> BucketAccess | None:
        await self._connect()
        return await find_bucket_access(self._fs, bucket, timeout_s=TOTAL_TIMEOUT_S)

    async def _request(
        self,
        method: str,
        bucket: str,
        read_response: Callable[[dict[str, Any]], Awaitable[T]],
        arguments: dict[str, Any],
    ) -> T:
        async with asyncio.timeout(TOTAL_TIMEOUT_S):
            await self._connect()
            call = getattr(await self._fs.get_s3(bucket), method)
            return await read_response(await call(**request_arguments(self._fs, call, Bucket=bucket, **arguments)))

    async def _connect(self) -> None:
        """Connect, unless there is a connection. The timestamp parser belongs to the session, not to a request."""
        try:
            await self._fs.set_session()
        except (TypeError, ValueError) as error:
            raise self._options_error(error) from error
        if not self._has_timestamp_parser:
            set_timestamp_parser(self._fs)
            self._has_timestamp_parser = True

    def _options_error(self, error: Exception) -> StorageError:
        return scrub_error(StorageError(f"s3fs does not accept storage_options: {error}"), self.options)

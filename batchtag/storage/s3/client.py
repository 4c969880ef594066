"""One request to S3: s3fs's client, called with the exact bucket and key, once.

s3fs finds credentials, profiles, endpoints and storage options the way its users know, and keeps the connections; but
its own calls strip slashes off keys, cut them at `?versionId=` and try five times. (One more try is left, aiohttp's,
for a kept connection that turns out closed.) Coroutines run on s3fs's event loop, one thread for the whole process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import s3fs
from botocore.parsers import ResponseParserError

from batchtag.errors import StorageError
from batchtag.storage.s3.errors import TROUBLE, explain
from batchtag.storage.s3.fast_reads import Way
from batchtag.storage.secrets import scrubbed

T = TypeVar("T")

TOTAL_TIMEOUT_S = 600.0
"""For one request, whatever happens: the others see neither a body that trickles nor a queue for a connection."""
_CONFIG = {"max_pool_connections": 128, "connect_timeout": 10, "read_timeout": 30}
_ONE_ATTEMPT = {"total_max_attempts": 1}


async def as_it_is(answer: dict[str, Any]) -> dict[str, Any]:
    """For answers without a body to read."""
    return answer


class S3Client:
    """The connections to one service with one set of credentials. Safe to use from many threads, not across a fork."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises StorageError if s3fs does not take the options. Connects with the first call."""
        self.options = dict(options)
        self._has_parser = False
        config = {**_CONFIG, **self.options.get("config_kwargs", {}), "retries": _ONE_ATTEMPT}
        try:
            self._fs = s3fs.S3FileSystem(**{**self.options, "config_kwargs": config}, skip_instance_cache=True)
        except (TypeError, ValueError, KeyError) as error:
            raise self._refused(error) from error

    def call(
        self,
        method: str,
        *,
        uri: str,
        bucket: str,
        use: Callable[[dict[str, Any]], Awaitable[T]],
        **arguments: Any,
    ) -> T:
        """What `use` makes of the answer to one request; `uri` is only for messages. Raises StorageError."""
        request = self._request(method, bucket, use, arguments)
        try:
            return asyncio.run_coroutine_threadsafe(request, self._fs.loop).result()
        except StorageError as error:
            raise scrubbed(error, self.options) from error.__cause__
        except TROUBLE as error:
            raise scrubbed(explain(uri, bucket, error), self.options) from error

    def way_to(self, bucket: str) -> Way | None:
        """How objects of a bucket are asked for; None if requests need more than an address and a signature."""
        try:
            return asyncio.run_coroutine_threadsafe(self._way_to(bucket), self._fs.loop).result()
        except (StorageError, AttributeError, *TROUBLE):
            return None  # whoever reads will say what is wrong

    async def _way_to(self, bucket: str) -> Way | None:
        await self._connect()
        client = await self._fs.get_s3(bucket)
        extra = self._fs._get_s3_method_kwargs(client.get_object, Bucket=bucket, Key="x")
        config = client.meta.config
        own_tls = (
            self._fs.client_kwargs.get("verify") is not None or config.client_cert or "AWS_CA_BUNDLE" in os.environ
        )
        url: str = await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
        if set(extra) != {"Bucket", "Key"} or (own_tls and url.startswith("https:")) or config.proxies:
            return None
        found = client._request_signer._credentials

        def ask() -> tuple[str, str, str | None]:
            asking = asyncio.run_coroutine_threadsafe(found.get_frozen_credentials(), self._fs.loop)
            frozen = asking.result(TOTAL_TIMEOUT_S)
            return frozen.access_key, frozen.secret_key, frozen.token

        return Way(
            url_of_x=url,
            region=client.meta.region_name,
            signature=config.signature_version,
            ask=ask,
            connect_timeout_s=config.connect_timeout,
            read_timeout_s=config.read_timeout,
        )

    async def _request(
        self, method: str, bucket: str, use: Callable[[dict[str, Any]], Awaitable[T]], arguments: dict[str, Any]
    ) -> T:
        async with asyncio.timeout(TOTAL_TIMEOUT_S):
            await self._connect()
            call = getattr(await self._fs.get_s3(bucket), method)
            # adds what the options ask for with every request: RequestPayer, SSE keys
            return await use(await call(**self._fs._get_s3_method_kwargs(call, Bucket=bucket, **arguments)))

    async def _connect(self) -> None:
        """Does nothing where there is a connection. The parser is a setting of the session, not of a request."""
        try:
            await self._fs.set_session()
        except (TypeError, ValueError) as error:
            raise self._refused(error) from error
        if not self._has_parser:
            parsers = self._fs.session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=_timestamp)
            self._has_parser = True

    def _refused(self, error: Exception) -> StorageError:
        return scrubbed(StorageError(f"storage_options are not what s3fs takes: {error}"), self.options)


def _timestamp(text: str) -> datetime:
    """A time in a listing or in a header. botocore's own guesses the format, and held listings to 14,000 keys a second.

    With this they come at 37,000 (one core, answers of 1,000 keys from memory).
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except ValueError as error:
            raise ResponseParserError(f"{text!r} is not a time") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)

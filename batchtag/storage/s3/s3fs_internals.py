"""Workarounds that reach behind the documented API of s3fs and botocore. One section each, with its way out.

Written for s3fs 2026.9.0, aiobotocore 3.10.0, botocore 1.43.117. The third workaround is in `bucket_access.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import s3fs
from botocore.parsers import ResponseParserError

# 1. Arguments that storage options add to every request -------------------------------------------------------------
#
# s3fs knows which of `requester_pays` and `s3_additional_kwargs` (SSE keys) each method of the client takes, but keeps
# that in a private method, because its own calls hide the client. Our calls use the client with the exact key. It can
# go when s3fs has a public name for the method, or when we call botocore without s3fs.


def request_arguments(fs: s3fs.S3FileSystem, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments of one request, with those that the storage options add to every request."""
    merged: dict[str, Any] = fs._get_s3_method_kwargs(method, **arguments)
    return merged


# 2. Timestamps ------------------------------------------------------------------------------------------------------
#
# botocore's own parser guesses the format of every timestamp, which limits listings to 14,000 keys per second. With the
# parser below they reach 37,000 (one core, responses of 1,000 keys from memory). The parser is set on a component of
# the session, which botocore does not document. It can go when botocore's parser tries ISO 8601 first.


def set_timestamp_parser(fs: s3fs.S3FileSystem) -> None:
    """Make the session of `fs` parse timestamps with `parse_timestamp`. `fs` must be connected (`set_session`)."""
    fs.session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_timestamp)


def parse_timestamp(text: str) -> datetime:
    """Parse a time of a listing (ISO 8601) or of a header (RFC 5322); a time without a zone is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        try:
            time = parsedate_to_datetime(text)
        except ValueError as error:
            raise ResponseParserError(f"{text!r} is not a time") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)

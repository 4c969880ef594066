"""The errors of S3 and botocore as our StorageErrors: their code, and whether another attempt may succeed.

Services that imitate S3 agree more on HTTP statuses than on the names of errors, so a name decides only where the
status is less precise. The response to a HEAD has no body, so it has a status only.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from batchtag.errors import Code, ConditionFailed, StorageError

REQUEST_ERRORS = (boto.BotoCoreError, boto.ClientError, ResponseParserError, aiohttp.ClientError, OSError, TimeoutError)
"""The exception classes that a request may raise."""

_THROTTLED = frozenset({"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "ThrottlingException"})
_DENIED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "AccessDenied"})
_WRONG_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_TIMEOUTS = (boto.ReadTimeoutError, boto.ConnectTimeoutError, TimeoutError)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.UnauthorizedSSOTokenError,
    boto.SSOTokenLoadError,
    boto.LoginError,
)
_CREDENTIALS_UNAVAILABLE = (boto.CredentialRetrievalError, boto.MetadataRetrievalError)
_CONNECTION_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    aiohttp.ClientError,
    OSError,
)


def explain_error(uri: str, bucket: str, error: BaseException) -> StorageError:
    """Build the StorageError for one of REQUEST_ERRORS."""
    if isinstance(error, boto.ClientError):
        return _explain_response(uri, bucket, error)
    if isinstance(error, _NO_CREDENTIALS):
        message = f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or storage_options"
        return StorageError(f"{message} (anon: true for a public bucket)", code=Code.DENIED)
    if isinstance(error, _CREDENTIALS_UNAVAILABLE):  # a hundred workers ask a metadata service at once
        return StorageError(
            f"{uri}: the credentials could not be fetched: {_one_line(error)}", code=Code.DENIED, transient=True
        )
    if isinstance(error, boto.ParamValidationError):
        reason = _one_line(error).removeprefix("Parameter validation failed: ").partition(": ")[0]
        return StorageError(f"{uri}: is not the URI of an object: {reason}", code=Code.NOT_FOUND)
    if isinstance(error, _TIMEOUTS):
        return StorageError(f"{uri}: no response in time: {_one_line(error)}", code=Code.TIMEOUT, transient=True)
    if isinstance(error, ResponseParserError):
        return StorageError(f"{uri}: the response is not in S3's format: {_one_line(error)}", transient=True)
    if isinstance(error, _CONNECTION_ERRORS) and "certificate" not in str(error).lower():
        return StorageError(f"{uri}: the connection broke: {_one_line(error)}", transient=True)
    return StorageError(f"{uri}: {_one_line(error)}")


def _explain_response(uri: str, bucket: str, error: boto.ClientError) -> StorageError:
    """Build the StorageError for a response with an error status."""
    details: dict[str, Any] = error.response.get("Error", {})
    name = str(details.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    reason = f"{name}: {_one_line(details.get('Message', ''))}"
    if name == "NoSuchBucket":
        return StorageError(
            f"{uri}: no bucket {bucket!r}; check its name, the endpoint and region", code=Code.NOT_FOUND
        )
    if name == "NoSuchKey" and error.operation_name == "PutObject":  # only a conditional PUT fails this way
        return ConditionFailed(f"{uri}: another process deleted it meanwhile")
    if status == 404:
        return StorageError(f"{uri}: no such object", code=Code.NOT_FOUND)
    if status == 412:
        return ConditionFailed(f"{uri}: is not the expected version; another process wrote it")
    if status == 409:
        return StorageError(f"{uri}: another process is writing it ({reason})", code=Code.CHANGED, transient=True)
    if status == 416:
        return StorageError(f"{uri}: ends before the requested range; it is truncated", code=Code.TRUNCATED)
    if name == "InvalidObjectState":
        return StorageError(f"{uri}: is in an archive storage class; restore it first", code=Code.DENIED)
    if name in _WRONG_REGION:
        return StorageError(f"{uri}: bucket {bucket!r} is in another region ({reason}); set AWS_REGION or region_name")
    if status in (401, 403) or name in _DENIED:
        return StorageError(
            f"{uri}: access denied ({reason}); check the credentials and their policy", code=Code.DENIED
        )
    if status in (429, 503) or name in _THROTTLED:
        return StorageError(f"{uri}: the service asked to slow down ({reason})", code=Code.THROTTLED, transient=True)
    if status in (408, 504) or name == "RequestTimeout":
        return StorageError(f"{uri}: no response in time ({reason})", code=Code.TIMEOUT, transient=True)
    return StorageError(f"{uri}: HTTP {status} ({reason})", code=Code.UNREACHABLE, transient=status >= 500)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__

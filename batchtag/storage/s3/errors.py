"""What S3's and botocore's many errors mean for us: which code, and whether trying again may help.

Services that imitate S3 agree on HTTP statuses more than on the names of errors, so names decide only where the status
says less; a HEAD has no body and gives the status alone.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from batchtag.errors import Code, ConditionFailed, StorageError

TROUBLE = (boto.BotoCoreError, boto.ClientError, ResponseParserError, aiohttp.ClientError, OSError, TimeoutError)
"""What a request may raise."""

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
_CREDENTIALS_AWAY = (boto.CredentialRetrievalError, boto.MetadataRetrievalError)
_BROKEN = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    aiohttp.ClientError,
    OSError,
)


def explain(uri: str, bucket: str, error: BaseException) -> StorageError:
    """The trouble of one request in our words. `error` is one of TROUBLE."""
    if isinstance(error, boto.ClientError):
        return _answer(uri, bucket, error)
    if isinstance(error, _NO_CREDENTIALS):
        message = f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or storage_options"
        return StorageError(f"{message} (anon: true for a public bucket)", code=Code.DENIED)
    if isinstance(error, _CREDENTIALS_AWAY):  # a hundred workers asking a metadata service at once
        return StorageError(f"{uri}: no credentials came: {_one_line(error)}", code=Code.DENIED, transient=True)
    if isinstance(error, boto.ParamValidationError):
        said = _one_line(error).removeprefix("Parameter validation failed: ").partition(": ")[0]
        return StorageError(f"{uri}: is not the URI of an object: {said}", code=Code.NOT_FOUND)
    if isinstance(error, _TIMEOUTS):
        return StorageError(f"{uri}: no answer in time: {_one_line(error)}", code=Code.TIMEOUT, transient=True)
    if isinstance(error, ResponseParserError):
        return StorageError(f"{uri}: the answer is not S3's: {_one_line(error)}", transient=True)
    if isinstance(error, _BROKEN) and "certificate" not in str(error).lower():
        return StorageError(f"{uri}: the connection broke: {_one_line(error)}", transient=True)
    return StorageError(f"{uri}: {_one_line(error)}")


def _answer(uri: str, bucket: str, error: boto.ClientError) -> StorageError:
    """The service answered, and said no."""
    said: dict[str, Any] = error.response.get("Error", {})
    name = str(said.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    answer = f"{name}: {_one_line(said.get('Message', ''))}"
    if name == "NoSuchBucket":
        return StorageError(
            f"{uri}: no bucket {bucket!r}; check its name, the endpoint and region", code=Code.NOT_FOUND
        )
    if name == "NoSuchKey" and error.operation_name == "PutObject":  # only a condition can miss an object there
        return ConditionFailed(f"{uri}: somebody deleted it meanwhile")
    if status == 404:
        return StorageError(f"{uri}: no such object", code=Code.NOT_FOUND)
    if status == 412:
        return ConditionFailed(f"{uri}: is not the version it was known as; somebody else wrote it")
    if status == 409:
        return StorageError(f"{uri}: written by somebody else just now ({answer})", code=Code.CHANGED, transient=True)
    if status == 416:
        return StorageError(f"{uri}: ends before the range that was asked for; it is truncated", code=Code.TRUNCATED)
    if name == "InvalidObjectState":
        return StorageError(f"{uri}: lies in an archive storage class; restore it first", code=Code.DENIED)
    if name in _WRONG_REGION:
        return StorageError(f"{uri}: bucket {bucket!r} is in another region ({answer}); set AWS_REGION or region_name")
    if status in (401, 403) or name in _DENIED:
        return StorageError(
            f"{uri}: access denied ({answer}); check the credentials and their policy", code=Code.DENIED
        )
    if status in (429, 503) or name in _THROTTLED:
        return StorageError(f"{uri}: asked to slow down ({answer})", code=Code.THROTTLED, transient=True)
    if status in (408, 504) or name == "RequestTimeout":
        return StorageError(f"{uri}: no answer in time ({answer})", code=Code.TIMEOUT, transient=True)
    return StorageError(f"{uri}: HTTP {status} ({answer})", code=Code.UNREACHABLE, transient=status >= 500)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__

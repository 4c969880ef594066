"""The errors of fsspec and of the packages behind it (aiohttp, requests, gcsfs, adlfs) as our StorageErrors."""

from __future__ import annotations

import sys

from batchtag.errors import Code, StorageError
from batchtag.storage.errors import no_object

EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure"}
"""Schemes that an optional extra of batchtag supports, and the extra's name."""
_EXTRA_PACKAGES = {"gcs": "gcsfs", "azure": "adlfs"}
_BASE_ERRORS = (
    ("aiohttp", "ClientError"),
    ("requests.exceptions", "RequestException"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""Base classes of the errors that those packages raise. They are not imported, only used if a package is loaded."""


def what_to_install(scheme: str, error: Exception) -> str:
    """Word the message for a scheme that no installed package opens."""
    extra = EXTRAS.get(scheme)
    if extra is None:
        return f"{scheme}:// needs a package that is not installed: {error}"
    package = _EXTRA_PACKAGES[extra]
    return f"{package} is not installed, and {scheme}:// needs it: pip install 'batchtag[{extra}]'"


def request_errors() -> tuple[type[Exception], ...]:
    """Return the exception classes that a call to a file system may raise."""
    loaded = (getattr(sys.modules.get(module), name, None) for module, name in _BASE_ERRORS)
    return (OSError, RuntimeError, ValueError, EOFError, *(kind for kind in loaded if kind is not None))


def explain_error(uri: str, error: Exception) -> StorageError:
    """Build the StorageError for one of `request_errors`: its code, and whether another attempt may succeed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    status = _http_status(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or status == 404:
        return no_object(uri)
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageError(f"{uri}: access denied: {reason}; check the credentials", code=Code.DENIED)
    if status == 416:
        return StorageError(f"{uri}: ends before the requested range; it is truncated", code=Code.TRUNCATED)
    if status in (429, 503):
        return StorageError(f"{uri}: the service asked to slow down: {reason}", code=Code.THROTTLED, transient=True)
    if isinstance(error, TimeoutError) or status in (408, 504):
        return StorageError(f"{uri}: no response in time: {reason}", code=Code.TIMEOUT, transient=True)
    is_transient = status >= 500 if status else not isinstance(error, RuntimeError | ValueError | FileExistsError)
    return StorageError(f"{uri}: {reason}", code=Code.UNREACHABLE, transient=is_transient)


def _http_status(error: Exception) -> int:
    """Return the HTTP status that some packages put into their errors, under one of three names; 0 if there is none."""
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 0

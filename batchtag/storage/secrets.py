"""Keep credentials out of everything that is printed or stored: messages, logs, tables, the resolved job.

1. Storage options. Every string in them counts as a secret, except under a few keys known to be harmless (an
   endpoint, a region), without which a message could not say what was tried. A list of secret keys would miss the
   next one.
2. URIs. They are identities and are written to tables that many people read, so a URI with a password or a signature
   is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchtag.errors import StorageError, UsageError

_HARMLESS_KEYS = frozenset(
    {
        "endpoint_url",
        "region_name",
        "region",
        "profile",
        "addressing_style",
        "signature_version",
        "account_name",
        "project",
    }
)
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_MIN_SECRET_CHARACTERS = 4
# abfs://container@account is how Azure names a container, not a user with a password
_USER_INFO = re.compile(r"\b(?!abfss?:|wasbs?:)([a-z][a-z0-9+.\-]*://)[^/@\s]+@", re.IGNORECASE)
_QUERY_SECRETS = re.compile(
    r"([?&](?:x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|signature"
    r"|sig|token|access_token|key|password)=)[^&#\s'\"]+",
    re.IGNORECASE,
)
_URI_WITH_CREDENTIALS = re.compile(
    r"(?i)^(?:[a-z][a-z0-9+.-]*://[^/?#]*:[^/?#]*@"  # user:password@host
    r"|https?://[^/?#]*@"  # token@host
    r"|s3[an]?://[^/]*:"  # key:secret@bucket, as Hadoop had it; the secret may contain slashes
    r"|(?:https?|abfss?|az(?:ure)?|wasbs?)://.*[?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|sig|signature"
    r"|token|access_token|awsaccesskeyid)=)"
)
"""URIs that contain credentials. In `s3://` and `gs://` a `?` is a character of the key and does not start a query."""


def scrub(text: str, options: Mapping[str, Any]) -> str:
    """Return the text without the secrets of `options`, of the environment, and of any URL in it."""
    secrets = {*secret_strings(options), *(os.environ.get(name, "") for name in _SECRET_VARIABLES)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            text = text.replace(secret, "***")
    return _QUERY_SECRETS.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def scrub_error(error: StorageError, options: Mapping[str, Any]) -> StorageError:
    """Return the same error with its message scrubbed. Stores raise only such errors."""
    clean = type(error)(scrub(error.message, options))
    clean.__dict__.update({name: value for name, value in vars(error).items() if name != "message"})
    return clean


def secret_strings(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield every string of the options that may be a secret, at any depth."""
    for key, value in options.items():
        if key not in _HARMLESS_KEYS or isinstance(value, Mapping):
            yield from _strings_in(value)


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from secret_strings(value)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _strings_in(item)


def has_credentials(uri: str) -> bool:
    """Whether a URI contains a password, a token or a signature."""
    return _URI_WITH_CREDENTIALS.search(uri) is not None


def credentials_error(where: str) -> UsageError:
    """Build the error for a URI with credentials. `where` is its place; the URI itself must not be shown."""
    return UsageError(
        f"{where} contains a password or a signature, and URIs are written to tables; remove it, and set the "
        "credentials in the environment or as source.storage_options"
    )


def check_no_credentials(uris: Mapping[str, str]) -> None:
    """Raise UsageError if one of the URIs contains credentials. The keys of `uris` are the places, for the message."""
    for where, uri in uris.items():
        if has_credentials(uri):
            raise credentials_error(where)

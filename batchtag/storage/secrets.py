"""Keeps credentials out of everything that is printed or stored: messages, logs, tables, the resolved job.

What counts as a secret is decided by name the safe way round: every string among the storage options is one, except
under a few keys known to be harmless (an endpoint, a region), without which a message could not say what was tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchtag.errors import StorageError

_HARMLESS = frozenset(
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
_SHORTEST_SECRET = 4
# abfs://container@account is Azure's way to name a container, not a user with a password
_USER_INFO = re.compile(r"\b(?!abfss?:|wasbs?:)([a-z][a-z0-9+.\-]*://)[^/@\s]+@", re.IGNORECASE)
_QUERY_SECRETS = re.compile(
    r"([?&](?:x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|signature"
    r"|sig|token|access_token|key|password)=)[^&#\s'\"]+",
    re.IGNORECASE,
)


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every value replaced by `***`; keys and nesting stay, so a reader sees what had been set."""
    return {key: redacted(value) if isinstance(value, Mapping) else "***" for key, value in options.items()}


def scrub(text: str, options: Mapping[str, Any]) -> str:
    """The text without the secrets of `options`, of the environment, and of any URL in it."""
    secrets = {*secret_strings(options), *(os.environ.get(name, "") for name in _SECRET_VARIABLES)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _QUERY_SECRETS.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def scrubbed(error: StorageError, options: Mapping[str, Any]) -> StorageError:
    """The same error, its message scrubbed: what a store lets out."""
    clean = type(error)(scrub(error.message, options))
    clean.__dict__.update({name: value for name, value in vars(error).items() if name != "message"})
    return clean


def secret_strings(options: Mapping[str, Any]) -> Iterator[str]:
    """Every string that may be a secret, however deep."""
    for key, value in options.items():
        if key not in _HARMLESS or isinstance(value, Mapping):
            yield from _strings_of(value)


def _strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from secret_strings(value)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _strings_of(one)

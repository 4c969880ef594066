"""Notices a URI that carries a password or a signature. URIs are identities and end in tables that many people read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from batchtag.errors import UsageError

_CREDENTIALS = re.compile(
    r"(?i)^(?:[a-z][a-z0-9+.-]*://[^/?#]*:[^/?#]*@"  # user:password@host
    r"|https?://[^/?#]*@"  # token@host
    r"|s3[an]?://[^/]*:"  # key:secret@bucket, as Hadoop had it; the secret may hold slashes
    r"|(?:https?|abfss?|az(?:ure)?|wasbs?)://.*[?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|sig|signature"
    r"|token|access_token|awsaccesskeyid)=)"
)
"""In `s3://` and `gs://` a `?` is a letter of the key, and begins no query."""


def carries_credentials(uri: str) -> bool:
    """Whether a URI holds a password, a token or a signature."""
    return _CREDENTIALS.search(uri) is not None


def credentials_error(where: str) -> UsageError:
    """The error for a URI at `where`, which is not shown itself."""
    return UsageError(
        f"{where} carries a password or a signature, and URIs are written to tables; leave it out, and give "
        "credentials in the environment or as source.storage_options"
    )


def check_without_credentials(uris: Mapping[str, str]) -> None:
    """Raises UsageError, naming the place (the key) and not the URI."""
    for where, uri in uris.items():
        if carries_credentials(uri):
            raise credentials_error(where)

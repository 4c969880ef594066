"""Take URIs apart and join them. Nothing is unquoted or normalised, except that a local path is made absolute."""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+)://")


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case; "file" for a plain path. One letter is a Windows drive, not a scheme."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def absolute_uri(uri: str) -> str:
    """Return a local path (or file:// URI) as an absolute path, any other URI unchanged. A trailing slash is kept."""
    if scheme_of(uri) != "file":
        return uri
    path = _SCHEME.sub("", uri)
    absolute = os.path.abspath(os.path.expanduser(path))
    return absolute + "/" if path.endswith("/") and absolute != "/" else absolute


def join_uri(folder: str, *names: str) -> str:
    """Return `folder/name/name`, with exactly one slash between. Only the folder's own trailing slash is dropped."""
    return "/".join([folder.removesuffix("/"), *names])

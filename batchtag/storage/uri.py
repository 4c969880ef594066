"""The little arithmetic of URIs: nothing is ever unquoted or normalised, but a local path is made absolute."""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+)://")


def scheme_of(uri: str) -> str:
    """The scheme in lower case; "file" for a plain path. One letter before :// is a Windows drive, not a scheme."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else "file"


def absolute_uri(uri: str) -> str:
    """A local path (or file:// URI) as an absolute path; any other URI as it is. A trailing slash is kept."""
    if scheme_of(uri) != "file":
        return uri
    path = _SCHEME.sub("", uri)
    absolute = os.path.abspath(os.path.expanduser(path))
    return absolute + "/" if path.endswith("/") and absolute != "/" else absolute


def join_uri(folder: str, *names: str) -> str:
    """`folder/name/name`, with exactly one slash between; only the folder's own trailing slash is dropped."""
    return "/".join([folder.removesuffix("/"), *names])

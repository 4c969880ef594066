"""What lies at or under the URIs a job names: the part of listing that prefixes and shards have in common.

A URI without a trailing slash may name a folder, an object, or on S3 both: `s3://b/2026` is the folder `2026/` and the
object of exactly that key, and never `2026-old/`, which a plain prefix search would add in silence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from batchtag.errors import Code, StorageError, UsageError
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.retry import WRITES, with_retries

PAGE_IMAGES = 4096


def check_apart(uris: Sequence[str]) -> None:
    """Raises UsageError if a URI is named twice or lies under another: its images would be listed twice."""
    folders = [as_folder(uri) for uri in uris]
    mistakes = []
    for (i, one), (j, other) in itertools.permutations(enumerate(folders), 2):
        if one == other and i < j:
            mistakes.append(f"{uris[i]} is named twice; name it once")
        elif one != other and one.startswith(other):
            mistakes.append(f"{uris[i]} lies under {uris[j]}; name one of them")
    if mistakes:
        raise UsageError("\n".join(dict.fromkeys(mistakes)))


def as_folder(uri: str) -> str:
    """The URI with the slash at its end that makes everything under it begin with it."""
    return uri if uri.endswith("/") else f"{uri}/"


def named_object(uri: str, *, store: Store) -> ObjectInfo | None:
    """The object of exactly this URI; None if there is none, or if the store lets us list but not look at objects."""
    is_bucket = "://" in uri and uri.count("/") < 3
    if is_bucket or uri.endswith("/"):
        return None
    try:
        return with_retries(lambda: store.stat(uri), policy=WRITES)[0]
    except StorageError as error:
        if error.code in (Code.NOT_FOUND, Code.DENIED):
            return None
        raise


def objects_under(uri: str, *, store: Store) -> Iterator[list[ObjectInfo]]:
    """All objects under the folder, recursively, as the store pages them. Raises StorageError (`not_found`)."""
    return store.walk(as_folder(uri))


def paged(images: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    """The stream in pages of PAGE_IMAGES: a tree of small folders would otherwise come as as many small pages."""
    stream = iter(images)
    while page := list(itertools.islice(stream, PAGE_IMAGES)):
        yield page

"""List the objects at and under the URIs that a job names: the part that prefixes, shards and manifests share.

A URI without a trailing slash may name a folder, an object, or on S3 both: `s3://b/2026` is the folder `2026/` and the
object of exactly that key. It is never `2026-old/`, which a search by key prefix would silently add.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from batchtag.errors import Code, StorageError, UsageError
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo, UnreadableObject
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ImageRef

PAGE_IMAGES = 4096
"""Maximum number of images in a page of a source."""


def check_disjoint(uris: Sequence[str]) -> None:
    """Raise UsageError if a URI is named twice or lies under another: its images would be listed twice."""
    folders = [as_folder(uri) for uri in uris]
    mistakes = []
    for (i, folder), (j, other) in itertools.permutations(enumerate(folders), 2):
        if folder == other and i < j:
            mistakes.append(f"{uris[i]} is named twice; name it once")
        elif folder != other and folder.startswith(other):
            mistakes.append(f"{uris[i]} lies under {uris[j]}; name one of them")
    if mistakes:
        raise UsageError("\n".join(dict.fromkeys(mistakes)))


def as_folder(uri: str) -> str:
    """Return the URI with a trailing slash, so that the URI of everything under it begins with it."""
    return uri if uri.endswith("/") else f"{uri}/"


def find_object(uri: str, *, store: Store) -> ObjectInfo | None:
    """Return the object of exactly this URI; None if it does not exist, or if only listing is allowed, not reading."""
    is_bucket = "://" in uri and uri.count("/") < 3
    if is_bucket or uri.endswith("/"):
        return None
    try:
        return with_retries(lambda: store.stat(uri), policy=WRITES)[0]
    except StorageError as error:
        if error.code in (Code.NOT_FOUND, Code.DENIED):
            return None
        raise


def list_objects(uri: str, *, store: Store) -> Iterator[list[ObjectInfo]]:
    """Yield all objects under the folder, recursively, in the pages of the store. Raises StorageError (`not_found`).

    An object that cannot be read is an ImageRef with its `problem`.
    """
    for page in store.walk(as_folder(uri)):
        yield [_with_problem(info) if isinstance(info, UnreadableObject) else info for info in page]


def _with_problem(unreadable: UnreadableObject) -> ImageRef:
    problem = f"{unreadable.code}: {unreadable.message}"
    return ImageRef(uri=unreadable.uri, size_bytes=unreadable.size_bytes, problem=problem)


def paginate(images: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    """Yield pages of PAGE_IMAGES images: a tree of small folders would otherwise give one small page per folder."""
    stream = iter(images)
    while page := list(itertools.islice(stream, PAGE_IMAGES)):
        yield page

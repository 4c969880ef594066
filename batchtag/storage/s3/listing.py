"""List S3: folders in parallel, and the pieces of a long flat folder in parallel.

A page holds 1,000 keys and can be requested only after the page before it, so a long folder is split. After SPLIT_PAGES
full pages, the rest is listed by the next character in which the keys differ, with a lane per character
(`parallel_listing.py`). Finding the characters costs one request each; UUIDs give 16 lanes, counters 10. The requests,
and therefore the order of the listing, depend only on the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from batchtag.errors import StorageError
from batchtag.storage.base import ObjectInfo
from batchtag.storage.errors import no_folder
from batchtag.storage.parallel_listing import FolderPage, walk_folders
from batchtag.storage.retry import RetryPolicy, with_retries
from batchtag.storage.s3.client import S3Client, return_response

PAGE_KEYS = 1000
"""Maximum number of keys in one response of S3."""
SPLIT_PAGES = 16
"""Number of pages of a flat folder after which it is split; doubled for the pieces, so that splits stay rare."""

_LAST_CHARACTER = "\U0010ffff"
_ARN = re.compile(r"(arn:[^/]+[:/](?:accesspoint|bucket)[:/][^/]+)(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Keys:
    """The keys that begin with `prefix` and lie after the key `after`. They are never split if `split_pages` is 0."""

    prefix: str
    after: str = ""
    split_pages: int = SPLIT_PAGES


class S3Listing:
    """The listing of one folder URI. Each page is retried by itself, as `policy` says."""

    def __init__(self, client: S3Client, uri: str, *, policy: RetryPolicy) -> None:
        scheme, self._bucket, prefix = split_uri(uri)
        self._client = client
        self._uri = uri
        self._policy = policy
        self._bucket_uri = f"{scheme}{self._bucket}/"
        # Directory buckets (S3 Express) list in no order and have no StartAfter, so they are never split.
        split_pages = 0 if self._bucket.endswith("--x-s3") else SPLIT_PAGES
        self._root = _Keys(prefix=f"{prefix.removesuffix('/')}/" if prefix else "", split_pages=split_pages)

    def folder(self) -> Iterator[list[ObjectInfo]]:
        """Yield the objects directly in the folder, in key order. Raises StorageError for a folder without keys."""
        self._root = replace(self._root, split_pages=0)
        for page in self._pages(self._root):
            if page.objects:
                yield page.objects

    def walk(self) -> Iterator[list[ObjectInfo]]:
        """Yield all objects under the folder, in the order of `walk_folders`. Raises StorageError like `folder`."""
        return walk_folders(self._root, pages_of=self._pages)

    def _pages(self, keys: _Keys) -> Iterator[FolderPage[_Keys]]:
        """Yield the objects and folders directly under `keys`.

        If there are too many, the last page has the pieces of the rest as its folders.
        """
        num_flat, token = 0, ""
        while True:
            is_start = keys == self._root and not token
            entries, folders, last, token = self._full_page(keys, token)
            if is_start and keys.prefix and not (entries or folders):
                raise no_folder(self._uri)
            yield FolderPage(
                objects=[
                    object_info(self._bucket_uri + entry["Key"], entry) for entry in entries if not _is_marker(entry)
                ],
                folders=[_Keys(prefix=folder, split_pages=keys.split_pages) for folder in folders],
            )
            if not token:
                return
            num_flat = 0 if folders else num_flat + 1
            if 0 < keys.split_pages == num_flat:
                yield FolderPage(objects=[], folders=self._split(keys, last))
                return

    def _full_page(self, keys: _Keys, token: str) -> tuple[list[dict[str, Any]], list[str], str, str]:
        """Return the next PAGE_KEYS objects and folders, the last object's key, and the token of the next page, or "".

        A service may return fewer keys than requested; the order of a walk must not depend on that.
        """
        entries: list[dict[str, Any]] = []
        folders: list[str] = []
        while True:
            start = {"ContinuationToken": token} if token else {"StartAfter": keys.after} if keys.after else {}
            num_missing = PAGE_KEYS - len(entries) - len(folders)
            response = self._request(Prefix=keys.prefix, Delimiter="/", MaxKeys=num_missing, **start)
            entries += response.get("Contents", [])
            folders += [folder["Prefix"] for folder in response.get("CommonPrefixes", [])]
            before, token = token, response.get("NextContinuationToken", "") if response.get("IsTruncated") else ""
            if token and token == before:
                raise StorageError(f"{self._uri}: the service returns the same page repeatedly; it cannot be listed")
            if not token or len(entries) + len(folders) >= PAGE_KEYS:
                return entries, folders, entries[-1]["Key"] if entries else "", token

    def _split(self, keys: _Keys, last: str) -> list[_Keys]:
        """Split the keys after `last` at the first index at which some of them differ from it."""
        deeper = 2 * keys.split_pages
        for index in range(len(keys.prefix), len(last)):
            stem, char = last[:index], last[index]
            others = list(self._characters_after(stem, char))
            if others:
                rest = _Keys(prefix=stem + char, after=last, split_pages=deeper)
                return [rest, *(_Keys(prefix=stem + other, split_pages=deeper) for other in others)]
        return [_Keys(prefix=keys.prefix, after=last, split_pages=0)]

    def _characters_after(self, stem: str, char: str) -> Iterator[str]:
        """Yield the characters above `char` that follow `stem` in any key. One request for each."""
        after = stem + char + _LAST_CHARACTER
        while entries := self._request(Prefix=stem, StartAfter=after, MaxKeys=1).get("Contents", []):
            key = entries[0]["Key"]
            if key[len(stem)] == char:  # a key with the last character of Unicode after `stem + char`
                after = key
                continue
            char = key[len(stem)]
            after = stem + char + _LAST_CHARACTER
            yield char

    def _request(self, **arguments: Any) -> dict[str, Any]:
        def request() -> dict[str, Any]:
            return self._client.request(
                "list_objects_v2", uri=self._uri, bucket=self._bucket, read_response=return_response, **arguments
            )

        return with_retries(request, policy=self._policy)[0]


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return the scheme with its `://`, the bucket (or the ARN of an access point), and the key without any change."""
    scheme, slashes, rest = uri.partition("://")
    arn = _ARN.fullmatch(rest)
    if arn:
        return scheme + slashes, arn.group(1), arn.group(2) or ""
    bucket, _, key = rest.partition("/")
    return scheme + slashes, bucket, key


def etag_of(response: dict[str, Any]) -> str:
    """Return the etag of a response or of an entry of a listing, without the quotes that HTTP puts around it."""
    return str(response.get("ETag", "")).strip('"')


def object_info(uri: str, entry: dict[str, Any]) -> ObjectInfo:
    """Build the record of an entry of a listing, or of the response to a HEAD with its length as `Size`."""
    return ObjectInfo(uri=uri, etag=etag_of(entry), size_bytes=entry["Size"], last_modified=entry.get("LastModified"))


def _is_marker(entry: dict[str, Any]) -> bool:
    """Whether an entry only stands for a folder, as web consoles create them. With content it is an object."""
    return bool(entry["Size"] == 0 and entry["Key"].endswith("/"))

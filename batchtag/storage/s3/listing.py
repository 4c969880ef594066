"""Listing S3: folders in parallel, and a long flat folder in parallel too.

A page holds 1,000 keys and can only be asked for after the one before it, so a folder that proves long is split: after
SPLIT_PAGES full pages the rest is listed by the next character in which the keys differ, each character a lane of its
own (walking.py). Finding the characters costs one request for each; uuids give 16 lanes, counters 10. The requests, and
with them the order that comes out, depend on the keys alone.
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
from batchtag.storage.s3.client import S3Client, as_it_is

PAGE_KEYS = 1000
"""What S3 gives in one answer at most."""
SPLIT_PAGES = 16
"""Pages of a flat folder after which it is split; doubled for each of the pieces, so that splitting stays rare."""

_LAST_CHARACTER = "\U0010ffff"
_ARN = re.compile(r"(arn:[^/]+[:/](?:accesspoint|bucket)[:/][^/]+)(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Keys:
    """Those that begin with `prefix`, after the last key already seen. 0 `split_pages`: never split."""

    prefix: str
    after: str = ""
    split_pages: int = SPLIT_PAGES


class S3Listing:
    """What lies under one folder URI. Pages of `policy`'s patience: each is retried by itself."""

    def __init__(self, client: S3Client, uri: str, *, policy: RetryPolicy) -> None:
        scheme, self._bucket, prefix = parts_of(uri)
        self._client = client
        self._uri = uri
        self._policy = policy
        self._bucket_uri = f"{scheme}{self._bucket}/"
        # directory buckets (S3 Express) list in no order and know no StartAfter
        split_pages = 0 if self._bucket.endswith("--x-s3") else SPLIT_PAGES
        self._root = _Keys(prefix=f"{prefix.removesuffix('/')}/" if prefix else "", split_pages=split_pages)

    def folder(self) -> Iterator[list[ObjectInfo]]:
        """Objects directly in the folder, in key order. Raises StorageError `not_found` if nothing begins with it."""
        self._root = replace(self._root, split_pages=0)
        for page in self._pages(self._root):
            if page.objects:
                yield page.objects

    def walk(self) -> Iterator[list[ObjectInfo]]:
        """All objects under the folder; see `walking` for the order. Raises StorageError like `folder`."""
        return walk_folders(self._root, pages_of=self._pages)

    def _pages(self, keys: _Keys) -> Iterator[FolderPage[_Keys]]:
        """Objects and folders directly under `keys`, then, if there are many, the pieces of the rest as folders."""
        num_flat, token = 0, ""
        while True:
            is_start = keys == self._root and not token
            found, folders, last, token = self._full_page(keys, token)
            if is_start and keys.prefix and not (found or folders):
                raise no_folder(self._uri)
            yield FolderPage(
                objects=[listed(self._bucket_uri + one["Key"], one) for one in found if not _is_marker(one)],
                folders=[_Keys(prefix=folder, split_pages=keys.split_pages) for folder in folders],
            )
            if not token:
                return
            num_flat = 0 if folders else num_flat + 1
            if 0 < keys.split_pages == num_flat:
                yield FolderPage(objects=[], folders=self._split(keys, last))
                return

    def _full_page(self, keys: _Keys, token: str) -> tuple[list[dict[str, Any]], list[str], str, str]:
        """The next PAGE_KEYS objects and folders, the last object's key, and the token of what comes after them ("").

        A service may give less than it was asked for; the order of a walk must not depend on that.
        """
        found: list[dict[str, Any]] = []
        folders: list[str] = []
        while True:
            start = {"ContinuationToken": token} if token else {"StartAfter": keys.after} if keys.after else {}
            answer = self._ask(
                Prefix=keys.prefix, Delimiter="/", MaxKeys=PAGE_KEYS - len(found) - len(folders), **start
            )
            found += answer.get("Contents", [])
            folders += [one["Prefix"] for one in answer.get("CommonPrefixes", [])]
            before, token = token, answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""
            if token and token == before:
                raise StorageError(f"{self._uri}: the service gives the same page again and again; it cannot be listed")
            if not token or len(found) + len(folders) >= PAGE_KEYS:
                return found, folders, found[-1]["Key"] if found else "", token

    def _split(self, keys: _Keys, last: str) -> list[_Keys]:
        """The keys after `last` in pieces, at the first place where they differ from it and there are any."""
        deeper = 2 * keys.split_pages
        for place in range(len(keys.prefix), len(last)):
            stem, char = last[:place], last[place]
            others = list(self._characters_after(stem, char))
            if others:
                rest = _Keys(prefix=stem + char, after=last, split_pages=deeper)
                return [rest, *(_Keys(prefix=stem + other, split_pages=deeper) for other in others)]
        return [_Keys(prefix=keys.prefix, after=last, split_pages=0)]

    def _characters_after(self, stem: str, char: str) -> Iterator[str]:
        """The characters above `char` with which keys go on after `stem`; one request for each."""
        after = stem + char + _LAST_CHARACTER
        while found := self._ask(Prefix=stem, StartAfter=after, MaxKeys=1).get("Contents", []):
            key = found[0]["Key"]
            if key[len(stem)] == char:  # a key that itself goes on with the last character of Unicode
                after = key
                continue
            char = key[len(stem)]
            after = stem + char + _LAST_CHARACTER
            yield char

    def _ask(self, **arguments: Any) -> dict[str, Any]:
        def once() -> dict[str, Any]:
            return self._client.call("list_objects_v2", uri=self._uri, bucket=self._bucket, use=as_it_is, **arguments)

        return with_retries(once, policy=self._policy)[0]


def parts_of(uri: str) -> tuple[str, str, str]:
    """Scheme with its `://`, bucket (or the ARN of an access point), and the key exactly as it stands."""
    scheme, slashes, rest = uri.partition("://")
    arn = _ARN.fullmatch(rest)
    if arn:
        return scheme + slashes, arn.group(1), arn.group(2) or ""
    bucket, _, key = rest.partition("/")
    return scheme + slashes, bucket, key


def etag_of(answer: dict[str, Any]) -> str:
    """The etag without the quotes that HTTP puts around it."""
    return str(answer.get("ETag", "")).strip('"')


def listed(uri: str, found: dict[str, Any]) -> ObjectInfo:
    """One object of a listing, or of a HEAD with its length as `Size`."""
    return ObjectInfo(uri=uri, etag=etag_of(found), size_bytes=found["Size"], last_modified=found.get("LastModified"))


def _is_marker(found: dict[str, Any]) -> bool:
    """Whether it only stands for a folder, as consoles make them. With content, it is an object with an odd name."""
    return bool(found["Size"] == 0 and found["Key"].endswith("/"))

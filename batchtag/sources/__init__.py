"""Where images come from: the promise of a source, and the door to the kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, assert_never

from batchtag.config.source import ManifestSource, PrefixSource, ShardsSource, SourceSpec
from batchtag.storage.base import ObjectInfo

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Lists images. Runs on the driver.

    1. `pages` gives every object of the source exactly once, in pages of at most a few thousand, and holds no more
       than a few pages in memory; the order depends only on what is listed.
    2. URIs are byte-exact, also `_x.jpg`, `.x.jpg`, `a%2Fb.jpg`. Nothing is opened that need not be.
    3. An object that the listing already shows to be hopeless has `problem` set, and is given all the same.
    4. A source that is not there, that may not be read or whose description is wrong raises (StorageError, UsageError);
       a source in which nothing is found gives no page.
    """

    def pages(self) -> Iterator[list[ObjectInfo]]: ...


def open_source(spec: SourceSpec) -> Source:
    """The source a job names. `limit` is the index's business, not the source's."""
    match spec:
        case PrefixSource():
            from batchtag.sources.prefix import PrefixListing

            return PrefixListing(spec)
        case ManifestSource():
            from batchtag.sources.manifest import ManifestListing

            return ManifestListing(spec)
        case ShardsSource():
            from batchtag.sources.webdataset import ShardListing

            return ShardListing(spec)
        case _:
            assert_never(spec)

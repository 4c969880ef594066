"""Sources of images: the contract of a source, and the function that opens one.

To add a kind: a spec in `config/source.py`, a module here, a case in `open_source`, a maker in
`tests/sources/test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, assert_never

from batchtag.config.source import ManifestSource, PrefixSource, ShardsSource, SourceSpec
from batchtag.storage.base import ObjectInfo

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Lists images. Runs on the driver.

    1. `pages` yields every object of the source exactly once, in pages of at most a few thousand, and holds no more
       than a few pages in memory. The order depends only on what is listed.
    2. URIs are byte-exact, also `_x.jpg`, `.x.jpg`, `a%2Fb.jpg`. No object is read that need not be.
    3. A page holds an `ObjectInfo` where the image is an object of the store. It holds an `ImageRef` without a position
       where more has to be stated: the shard of a member and the offset of its content, or the `problem` of an object
       that cannot be tagged. Such an object is yielded like the others.
    4. A source that does not exist, that may not be read or that is described wrongly raises StorageError or
       UsageError. A source without any image yields no page.
    """

    def pages(self) -> Iterator[Sequence[ObjectInfo]]: ...


def open_source(spec: SourceSpec) -> Source:
    """Open the source that a job names. Its `limit` is applied by the index, not by the source."""
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

"""What has been committed, and therefore what is left to do.

There is no journal to keep true: the images parts are the ledger, and one listing of `images/` reads it, because a
part's name says its positions. Tags and errors parts without their images part are what a killed worker left; whoever
holds the lease removes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from batchtag.errors import Code, OutputError, StorageError
from batchtag.output.index import Index
from batchtag.output.layout import Layout, part_of_uri
from batchtag.output.types import Bundle, Commit
from batchtag.output.writer import read_commit
from batchtag.storage import Store
from batchtag.storage.local import is_debris
from batchtag.storage.retry import with_retries


@dataclass(kw_only=True)
class Totals:
    """Sums over commits, each part counted once."""

    num_images: int = 0
    num_tagged: int = 0
    num_failed: int = 0
    num_tags: int = 0
    failed_by_code: Counter[str] = field(default_factory=Counter)
    parts: set[str] = field(default_factory=set, repr=False)
    """Those that are in the sums."""

    def add(self, commit: Commit) -> None:
        """Take in a commit, unless its part is in the sums: a worker that died may have told of it before."""
        if commit.part in self.parts:
            return
        self.parts.add(commit.part)
        self.num_images += commit.num_images
        self.num_tagged += commit.num_tagged
        self.num_failed += commit.num_failed
        self.num_tags += commit.num_tags
        self.failed_by_code.update(commit.failed_by_code)


def committed_parts(*, store: Store, layout: Layout) -> set[str]:
    """The ids of all committed parts: one listing."""
    return {part for uri in _files(layout.table("images"), store=store) if (part := part_of_uri(uri))}


def bundles_left(index: Index, committed: set[str]) -> list[Bundle]:
    """The bundles without a commit, by position. Raises OutputError for parts that are no bundle of this index."""
    bundles = list(index.bundles())
    strange = committed - {bundle.id for bundle in bundles}
    if strange:
        raise OutputError(
            f"images/ holds {len(strange):,} parts that are no bundle of the index (for example part-{min(strange)}); "
            "they were not written by this job. Move them away or choose another --out"
        )
    return [bundle for bundle in bundles if bundle.id not in committed]


def totals_of(parts: Iterable[str], *, store: Store, layout: Layout, counted: Totals | None = None) -> Totals:
    """The sums over these parts and those `counted` already: footers are read many at a time, and each once.

    `counted` itself grows, so that what was read before an interruption is not read again.
    """
    totals = Totals() if counted is None else counted
    missing = [part for part in parts if part not in totals.parts]
    pool = ThreadPoolExecutor(32, thread_name_prefix="footers")
    try:
        for commit in pool.map(lambda part: read_commit(layout.part("images", part), store=store), missing):
            totals.add(commit)
    finally:
        pool.shutdown(cancel_futures=True)
    return totals


def remove_debris(committed: set[str], *, store: Store, layout: Layout) -> int:
    """Delete what killed writers left: half a part, a temporary file; returns how many. The lease must be held."""
    removed = 0
    for table in ("tags", "errors", "images"):
        for uri in list(_files(layout.table(table), store=store)):
            part = part_of_uri(uri)
            if is_debris(uri) or (part and part not in committed):
                with_retries(lambda uri=uri: store.delete(uri))  # type: ignore[misc]
                removed += 1
    return removed


def _files(folder: str, *, store: Store) -> Iterator[str]:
    try:
        for page in store.list_folder(folder):
            for file in page:
                yield file.uri
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise

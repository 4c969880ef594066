"""The committed parts of an OUT, and the bundles that remain.

The images parts are the ledger; a journal beside them could disagree with the tables. One listing of `images/`
reads it, because the name of a part says its positions. Tags and errors parts without their images part are debris of
a killed worker; the run that holds the lease removes them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from batchtag.errors import Code, OutputError, StorageError
from batchtag.output.index import Index
from batchtag.output.layout import Layout, part_of_uri
from batchtag.output.types import Bundle, Commit
from batchtag.output.writer import read_commit
from batchtag.storage import Store
from batchtag.storage.local import is_unfinished_write
from batchtag.storage.retry import with_retries

_FOOTERS_IN_FLIGHT = 32
"""Number of footers that are read at the same time."""


def list_committed_parts(*, store: Store, layout: Layout) -> set[str]:
    """Return the ids of all committed parts: one listing."""
    return {part for uri in _list_files(layout.table("images"), store=store) if (part := part_of_uri(uri))}


def remaining_bundles(index: Index, committed: set[str]) -> list[Bundle]:
    """Return the bundles without a commit, by position. Raises OutputError for parts that belong to no bundle."""
    bundles = list(index.bundles())
    unknown = committed - {bundle.id for bundle in bundles}
    if unknown:
        raise OutputError(
            f"images/ holds {len(unknown):,} parts that belong to no bundle of the index (for example "
            f"part-{min(unknown)}); this job did not write them. Move them away or choose another --out"
        )
    return [bundle for bundle in bundles if bundle.id not in committed]


def read_commits(parts: Iterable[str], *, store: Store, layout: Layout) -> Generator[Commit, None, None]:
    """Yield the commit of each of these parts, in order; the footers are read many at a time.

    Raises what `writer.read_commit` raises. A caller that stops early closes the generator; reads that have not begun
    are then cancelled.
    """
    pool = ThreadPoolExecutor(_FOOTERS_IN_FLIGHT, thread_name_prefix="footers")
    try:
        yield from pool.map(lambda part: read_commit(layout.part("images", part), store=store), parts)
    finally:
        pool.shutdown(cancel_futures=True)


def remove_debris(committed: set[str], *, store: Store, layout: Layout) -> int:
    """Delete temporary files and parts without a commit; return their number. The lease must be held."""
    removed = 0
    for table in ("tags", "errors", "images"):
        for uri in list(_list_files(layout.table(table), store=store)):
            part = part_of_uri(uri)
            if is_unfinished_write(uri) or (part and part not in committed):
                with_retries(lambda uri=uri: store.delete(uri))  # type: ignore[misc]
                removed += 1
    return removed


def _list_files(folder: str, *, store: Store) -> Iterator[str]:
    try:
        for page in store.list_folder(folder):
            for file in page:
                yield file.uri
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise

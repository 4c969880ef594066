from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.errors import Code, OutputError
from batchtag.output.index import Index, IndexPart
from batchtag.output.layout import Layout
from batchtag.output.ledger import list_committed_parts, read_commits, remaining_bundles, remove_debris
from batchtag.output.types import Bundle
from batchtag.output.writer import PartWriter
from batchtag.storage.local import LocalStore
from batchtag.types import Failure, ImageResult, Stage
from tests.support.samples import NOON, failed, tagged

STORE = LocalStore()
DENIED = Failure(stage=Stage.FETCH, code=Code.DENIED, message="no")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "out"))


@pytest.fixture
def index() -> Index:
    part = IndexPart(name="part-00000.parquet", first=0, num_images=5, bundle_size=2, sha256="")
    return Index(num_images=5, listed_at="", parts=(part,))


def write(layout: Layout, bundle: Bundle) -> None:
    """Commit a bundle in which every odd position failed."""
    positions = range(bundle.first, bundle.first + bundle.num_images)
    results: list[ImageResult] = [failed(i, DENIED) if i % 2 else tagged(i) for i in positions]
    writer = PartWriter(store=STORE, layout=layout, run_id="r-1", check_lease=lambda: None)
    writer.write(bundle, results, tagged_at=NOON)


def test_in_a_new_folder_nothing_is_committed_and_every_bundle_remains(layout: Layout, index: Index) -> None:
    assert list_committed_parts(store=STORE, layout=layout) == set()
    assert [bundle.first for bundle in remaining_bundles(index, set())] == [0, 2, 4]
    assert remove_debris(set(), store=STORE, layout=layout) == 0


def test_a_committed_bundle_does_not_remain(layout: Layout, index: Index) -> None:
    bundles = list(index.bundles())
    write(layout, bundles[1])
    committed = list_committed_parts(store=STORE, layout=layout)
    assert committed == {bundles[1].id}
    assert remaining_bundles(index, committed) == [bundles[0], bundles[2]]


def test_parts_of_another_index_are_refused_and_one_is_named(layout: Layout, index: Index) -> None:
    with pytest.raises(OutputError, match=r"1 part.*part-000000000000-000000000063"):
        remaining_bundles(index, {"000000000000-000000000063"})


def test_only_the_debris_of_a_killed_writer_is_removed(layout: Layout, index: Index) -> None:
    bundles = list(index.bundles())
    for bundle in bundles[:2]:
        write(layout, bundle)
    Path(layout.part("images", bundles[1].id)).unlink()
    half_written = [Path(layout.table(table)) / f".batchtag-{7:016x}.tmp" for table in ("images", "tags")]
    foreign_file = Path(layout.table("tags")) / "README.txt"
    for path in (*half_written, foreign_file):
        path.write_bytes(b"x")
    committed = list_committed_parts(store=STORE, layout=layout)
    assert committed == {bundles[0].id}
    assert remove_debris(committed, store=STORE, layout=layout) == 4
    remaining = {str(path.relative_to(layout.out)) for path in Path(layout.out).rglob("*") if path.is_file()}
    part = f"part-{bundles[0].id}.parquet"
    assert remaining == {f"images/{part}", f"tags/{part}", f"errors/{part}", "tags/README.txt"}


def test_commits_are_read_in_the_order_of_their_parts(layout: Layout, index: Index) -> None:
    for bundle in index.bundles():
        write(layout, bundle)
    parts = sorted(list_committed_parts(store=STORE, layout=layout))
    commits = list(read_commits(parts, store=STORE, layout=layout))
    assert [commit.part for commit in commits] == parts
    assert sum(commit.num_failed for commit in commits) == 2
    assert list(read_commits([], store=STORE, layout=layout)) == []

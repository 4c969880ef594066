from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.errors import Code, OutputError
from batchtag.output.index import Index, IndexPart
from batchtag.output.layout import Layout
from batchtag.output.ledger import Totals, bundles_left, committed_parts, remove_debris, totals_of
from batchtag.output.types import Bundle
from batchtag.output.writer import PartWriter
from batchtag.storage.local import LocalStore
from batchtag.types import Failure, ImageResult, Stage
from tests.support.samples import NOON, commit, failed, tagged

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
    """Every odd position failed."""
    positions = range(bundle.first, bundle.first + bundle.num_images)
    outcomes: list[ImageResult] = [failed(i, DENIED) if i % 2 else tagged(i) for i in positions]
    writer = PartWriter(store=STORE, layout=layout, run_id="r-1", may_write=lambda: None)
    writer.write(bundle, outcomes, tagged_at=NOON)


def test_a_new_folder_has_nothing_committed_and_everything_left(layout: Layout, index: Index) -> None:
    assert committed_parts(store=STORE, layout=layout) == set()
    assert [bundle.first for bundle in bundles_left(index, set())] == [0, 2, 4]
    assert remove_debris(set(), store=STORE, layout=layout) == 0


def test_what_is_committed_is_not_left(layout: Layout, index: Index) -> None:
    bundles = list(index.bundles())
    write(layout, bundles[1])
    committed = committed_parts(store=STORE, layout=layout)
    assert committed == {bundles[1].id}
    assert bundles_left(index, committed) == [bundles[0], bundles[2]]


def test_parts_of_another_index_are_refused_and_one_is_named(layout: Layout, index: Index) -> None:
    with pytest.raises(OutputError, match=r"1 part.*part-000000000000-000000000063"):
        bundles_left(index, {"000000000000-000000000063"})


def test_what_a_killed_writer_left_is_removed_and_nothing_else(layout: Layout, index: Index) -> None:
    bundles = list(index.bundles())
    for bundle in bundles[:2]:
        write(layout, bundle)
    Path(layout.part("images", bundles[1].id)).unlink()
    half_written = [Path(layout.table(table)) / f".batchtag-{7:016x}.tmp" for table in ("images", "tags")]
    somebody_elses = Path(layout.table("tags")) / "README.txt"
    for path in (*half_written, somebody_elses):
        path.write_bytes(b"x")
    committed = committed_parts(store=STORE, layout=layout)
    assert committed == {bundles[0].id}
    assert remove_debris(committed, store=STORE, layout=layout) == 4
    left = {str(path.relative_to(layout.out)) for path in Path(layout.out).rglob("*") if path.is_file()}
    part = f"part-{bundles[0].id}.parquet"
    assert left == {f"images/{part}", f"tags/{part}", f"errors/{part}", "tags/README.txt"}


def test_totals_are_the_sums_over_the_footers(layout: Layout, index: Index) -> None:
    for bundle in index.bundles():
        write(layout, bundle)
    totals = totals_of(committed_parts(store=STORE, layout=layout), store=STORE, layout=layout)
    assert (totals.num_images, totals.num_tagged, totals.num_failed, totals.num_tags) == (5, 3, 2, 0)
    assert totals.failed_by_code == {"denied": 2}


def test_totals_of_nothing_are_zero(layout: Layout) -> None:
    assert totals_of([], store=STORE, layout=layout) == Totals()


def test_of_a_part_that_is_counted_no_footer_is_read(layout: Layout, index: Index) -> None:
    first, *others = index.bundles()
    for bundle in others:
        write(layout, bundle)
    counted = Totals()
    counted.add(commit(first.first, first.num_images))
    totals = totals_of([bundle.id for bundle in index.bundles()], store=STORE, layout=layout, counted=counted)
    assert (totals.num_images, totals.num_tagged) == (5, 4)
    assert totals is counted, "what was read stays, whatever interrupts the rest"


def test_a_part_counts_once_however_often_its_row_comes() -> None:
    totals = Totals()
    for _ in range(2):
        totals.add(commit(0, 2, num_tagged=1, num_failed=1, failed_by_code={"empty": 1}))
    assert (totals.num_images, totals.num_failed, totals.failed_by_code) == (2, 1, {"empty": 1})


def test_commits_add_up() -> None:
    totals = Totals()
    totals.add(commit(0, 2, num_tagged=1, num_failed=1, num_tags=4, failed_by_code={"empty": 1}))
    totals.add(commit(2, 3, num_tagged=1, num_failed=2, num_tags=1, failed_by_code={"empty": 1, "denied": 1}))
    assert (totals.num_images, totals.num_tagged, totals.num_failed, totals.num_tags) == (5, 2, 3, 5)
    assert totals.failed_by_code == {"empty": 2, "denied": 1}

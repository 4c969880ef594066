from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchtag.errors import Code, LeaseLost, OutputError, StorageError
from batchtag.output.layout import Layout
from batchtag.output.schemas import errors_table, parquet_bytes
from batchtag.output.writer import PartWriter, read_commit
from batchtag.storage import Store
from batchtag.storage.local import LocalStore
from batchtag.types import Failure, ImagePrediction, ImageResult, Stage
from tests.support.samples import NOON, bundle, classes, failed, info, tagged

GONE = Failure(stage=Stage.FETCH, code=Code.NOT_FOUND, message="gone")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


def writer(layout: Layout, *, store: Store | None = None, run_id: str = "r-1") -> PartWriter:
    return PartWriter(store=store or LocalStore(), layout=layout, run_id=run_id, may_write=lambda: None)


def some_outcomes() -> list[ImageResult]:
    return [tagged(0, ImagePrediction(info=info(), prediction=classes(0.9, 0.3))), failed(1, GONE)]


def files_of(layout: Layout) -> dict[str, bytes]:
    return {str(path.relative_to(layout.out)): path.read_bytes() for path in Path(layout.out).rglob("part-*")}


def test_a_part_is_three_files_and_its_footer_says_what_they_hold(layout: Layout) -> None:
    commit = writer(layout).write(bundle(), some_outcomes(), tagged_at=NOON)
    assert (commit.num_images, commit.num_tagged, commit.num_failed, commit.num_tags) == (2, 1, 1, 2)
    assert commit.failed_by_code == {"not_found": 1}
    for table, digest in (("tags", commit.tags_sha256), ("errors", commit.errors_sha256)):
        assert hashlib.sha256(Path(layout.part(table, commit.part)).read_bytes()).hexdigest() == digest
    assert pq.read_table(layout.part("images", commit.part))["position"].to_pylist() == [0, 1]
    assert read_commit(layout.part("images", commit.part), store=LocalStore()) == commit
    assert writer(layout).committed(bundle()) == commit


def test_writing_twice_equals_writing_once(layout: Layout) -> None:
    writer(layout).write(bundle(), some_outcomes(), tagged_at=NOON)
    once = files_of(layout)
    writer(layout).write(bundle(), some_outcomes(), tagged_at=NOON)
    assert files_of(layout) == once
    assert len(once) == 3


def test_all_three_files_are_there_even_when_nothing_was_found(layout: Layout) -> None:
    writer(layout).write(bundle(5, 1), [tagged(5)], tagged_at=NOON)
    assert {name.split("/")[0] for name in files_of(layout)} == {"images", "tags", "errors"}
    assert pq.read_table(layout.part("tags", bundle(5, 1).id)).num_rows == 0


class FullDisk(LocalStore):
    """Refuses the images part, as a disk that is full by then, or a kill, does."""

    def write(self, uri: str, data: bytes) -> str:
        if "/images/" in uri:
            raise StorageError(f"{uri}: no space left on the device")
        return super().write(uri, data)


def test_nothing_counts_before_the_images_part_is_there(layout: Layout) -> None:
    with pytest.raises(StorageError, match="no space left"):
        writer(layout, store=FullDisk()).write(bundle(), some_outcomes(), tagged_at=NOON)
    assert {name.split("/")[0] for name in files_of(layout)} == {"tags", "errors"}
    assert writer(layout).committed(bundle()) is None


def test_a_writer_without_its_lease_does_not_begin(layout: Layout) -> None:
    def lost() -> None:
        raise LeaseLost("run r-1 lost its lease")

    fenced = PartWriter(store=LocalStore(), layout=layout, run_id="r-1", may_write=lost)
    with pytest.raises(LeaseLost):
        fenced.write(bundle(), some_outcomes(), tagged_at=NOON)
    assert files_of(layout) == {}


@pytest.mark.parametrize("positions", [(0,), (0, 2), (1, 0), (0, 1, 2)])
def test_a_row_dropped_or_added_on_the_line_is_never_committed(layout: Layout, positions: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="dropped or added"):
        writer(layout).write(bundle(), [tagged(position) for position in positions], tagged_at=NOON)
    assert files_of(layout) == {}


@pytest.mark.parametrize("foreign", [parquet_bytes(errors_table([], run_id="r")), b"not Parquet", b""])
def test_an_images_part_that_we_did_not_write_is_refused_by_name(layout: Layout, foreign: bytes) -> None:
    uri = layout.part("images", bundle().id)
    LocalStore().write(uri, foreign)
    with pytest.raises(OutputError, match="was not written by batchtag") as caught:
        read_commit(uri, store=LocalStore())
    assert uri in caught.value.message

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchtag.errors import Code, LeaseLost, OutputError, StorageError
from batchtag.output.layout import Layout
from batchtag.output.schemas import errors_table, parquet_bytes
from batchtag.output.types import Commit, CommittedFile
from batchtag.output.writer import PartWriter, read_commit
from batchtag.storage import Store
from batchtag.storage.local import LocalStore
from batchtag.types import Failure, ImagePrediction, ImageResult, Stage
from tests.support.samples import NOON, bundle, classes, failed, info, tagged

NOT_FOUND = Failure(stage=Stage.FETCH, code=Code.NOT_FOUND, message="not found")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


def writer(layout: Layout, *, store: Store | None = None, run_id: str = "r-1") -> PartWriter:
    return PartWriter(store=store or LocalStore(), layout=layout, run_id=run_id, check_lease=lambda: None)


def some_results() -> list[ImageResult]:
    return [tagged(0, ImagePrediction(model_info=info(), prediction=classes(0.9, 0.3))), failed(1, NOT_FOUND)]


def files_of(layout: Layout) -> dict[str, bytes]:
    return {str(path.relative_to(layout.out)): path.read_bytes() for path in Path(layout.out).rglob("part-*")}


def test_a_part_is_three_files_and_its_footer_says_what_they_hold(layout: Layout) -> None:
    commit = writer(layout).write(bundle(), some_results(), tagged_at=NOON)
    assert (commit.num_images, commit.num_tagged, commit.num_failed, commit.num_tags) == (2, 1, 1, 2)
    assert commit.failed_by_code == {"not_found": 1}
    assert {table: file.rows for table, file in commit.files.items()} == {"tags": 2, "errors": 1}
    for table, file in commit.files.items():
        assert hashlib.sha256(Path(layout.part(table, commit.part)).read_bytes()).hexdigest() == file.sha256
    assert pq.read_table(layout.part("images", commit.part))["position"].to_pylist() == [0, 1]
    assert read_commit(layout.part("images", commit.part), store=LocalStore()) == commit
    assert writer(layout).find_commit(bundle()) == commit


def test_writing_twice_equals_writing_once(layout: Layout) -> None:
    writer(layout).write(bundle(), some_results(), tagged_at=NOON)
    once = files_of(layout)
    writer(layout).write(bundle(), some_results(), tagged_at=NOON)
    assert files_of(layout) == once
    assert len(once) == 3


def test_all_three_files_exist_also_if_there_are_no_tags(layout: Layout) -> None:
    writer(layout).write(bundle(5, 1), [tagged(5)], tagged_at=NOON)
    assert {name.split("/")[0] for name in files_of(layout)} == {"images", "tags", "errors"}
    assert pq.read_table(layout.part("tags", bundle(5, 1).id)).num_rows == 0


class FullDisk(LocalStore):
    """Refuses the images part, as a disk that has become full does."""

    def write(self, uri: str, data: bytes) -> str:
        if "/images/" in uri:
            raise StorageError(f"{uri}: no space left on the device")
        return super().write(uri, data)


def test_a_part_is_not_committed_before_its_images_file_exists(layout: Layout) -> None:
    with pytest.raises(StorageError, match="no space left"):
        writer(layout, store=FullDisk()).write(bundle(), some_results(), tagged_at=NOON)
    assert {name.split("/")[0] for name in files_of(layout)} == {"tags", "errors"}
    assert writer(layout).find_commit(bundle()) is None


def test_a_writer_without_the_lease_writes_nothing(layout: Layout) -> None:
    def lost() -> None:
        raise LeaseLost("run r-1 lost its lease")

    fenced = PartWriter(store=LocalStore(), layout=layout, run_id="r-1", check_lease=lost)
    with pytest.raises(LeaseLost):
        fenced.write(bundle(), some_results(), tagged_at=NOON)
    assert files_of(layout) == {}


@pytest.mark.parametrize("positions", [(0,), (0, 2), (1, 0), (0, 1, 2)])
def test_a_part_with_a_dropped_or_added_row_is_never_committed(layout: Layout, positions: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="dropped or added"):
        writer(layout).write(bundle(), [tagged(position) for position in positions], tagged_at=NOON)
    assert files_of(layout) == {}


@pytest.mark.parametrize("foreign", [parquet_bytes(errors_table([], run_id="r")), b"not Parquet", b""])
def test_an_images_part_that_batchtag_did_not_write_is_refused_by_name(layout: Layout, foreign: bytes) -> None:
    uri = layout.part("images", bundle().id)
    LocalStore().write(uri, foreign)
    with pytest.raises(OutputError, match="was not written by batchtag") as caught:
        read_commit(uri, store=LocalStore())
    assert uri in caught.value.message


def test_a_footer_of_version_0_1_is_read() -> None:
    old = {
        "part": "000000000000-000000000001",
        "first": 0,
        "num_images": 2,
        "num_tagged": 1,
        "num_failed": 1,
        "num_tags": 3,
        "tags_sha256": "aa",
        "errors_sha256": "bb",
        "failed_by_code": {"empty": 1},
    }
    commit = Commit.from_json(json.dumps(old))
    assert commit.files == {"tags": CommittedFile(sha256="aa", rows=3), "errors": CommittedFile(sha256="bb", rows=1)}
    assert Commit.from_json(commit.to_json()) == commit


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"part": "p", "files": {}}'])
def test_a_footer_that_is_not_a_commit_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Commit.from_json(text)

"""Each promise of an OUT is broken once, and `verify` must say so; an OUT that keeps them all passes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchtag.analysis.verify import Check, verify
from batchtag.analysis.verify_files import FILE_PROMISES
from batchtag.analysis.verify_rules import PROMISES
from batchtag.errors import UsageError
from tests.support.made_out import MadeOut, make_out
from tests.support.s3server import S3Server

FIRST = "s3://photos/00.jpg"
Rows = list[dict[str, Any]]


@pytest.fixture
def out(tmp_path: Path) -> MadeOut:
    return make_out(str(tmp_path / "o'u t[*]?"))


def broken(out: MadeOut, **options: Any) -> dict[str, Check]:
    report = verify(out.uri, **options)
    assert report.ok == all(check.ok for check in report.checks)
    return {check.name: check for check in report.checks if not check.ok}


def test_an_out_that_a_run_made_keeps_every_promise(out: MadeOut) -> None:
    report = verify(out.uri)
    assert report.ok
    assert (report.num_listed, report.num_tagged, report.num_failed, report.num_duplicate) == (10, 8, 2, 0)
    assert (report.num_tags, report.num_parts, report.num_to_do) == (40, 3, 0)
    assert "8 tagged + 2 failed + 0 duplicate of 10 images" in report.summary()
    assert {check.name for check in report.checks} == {*FILE_PROMISES, *(p.name for p in PROMISES), "counts", "sum"}


def test_an_out_on_s3_is_verified_there(s3: S3Server, bucket: str) -> None:
    options = dict(s3.storage_options)
    out = make_out(f"{bucket}/o'ut", options=options)
    assert verify(out.uri, options).ok
    out.store.delete(out.layout.part("tags", out.bundles[0].id))
    assert not verify(out.uri, options).ok


@pytest.mark.parametrize("commit", [True, False])
def test_images_that_are_not_tagged_yet_are_counted_and_named(tmp_path: Path, commit: bool) -> None:
    out = make_out(str(tmp_path), commit=commit)
    for table in ("images", "tags", "errors"):
        out.part(table, 1).unlink(missing_ok=True)
    found = broken(out)
    assert set(found) == {"to_do", "sum"}
    assert found["to_do"].num_violations == (4 if commit else 10)
    assert ("s3://photos/04.jpg", "position 4 is still to do") in found["to_do"].examples


def test_an_empty_index_is_complete(tmp_path: Path) -> None:
    assert verify(make_out(str(tmp_path), num_images=0).uri).ok


def test_a_folder_that_is_no_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no tables of batchtag.*name the --out"):
        verify(str(tmp_path))


def set_in(row: int, **values: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[row].update(values)


def repeat(rows: Rows) -> None:
    rows.append(rows[0])


ROWS_BROKEN: list[tuple[str, str, Callable[[Rows], Any], set[str]]] = [
    ("repeated", "images", repeat, {"counts", "sum"}),
    ("beyond", "images", lambda rows: rows.append({**rows[0], "position": 99}), {"position", "counts", "sum"}),
    ("to_do", "images", lambda rows: rows.pop(), {"counts", "sum", "one_error", "errors_of_failed"}),
    ("uri", "images", set_in(0, uri="s3://photos/x.jpg"), {"num_tags", "tags_of_tagged"}),
    ("position", "images", set_in(0, position=4), {"repeated", "uri", "to_do"}),
    ("status", "images", set_in(0, status="done"), {"tags_of_tagged", "counts", "sum"}),
    ("num_tags", "images", set_in(0, num_tags=4), set()),
    ("tags_of_tagged", "tags", set_in(0, uri="s3://photos/03.jpg"), {"num_tags", "rank", "parent", "box"}),
    ("one_error", "errors", list.clear, {"counts"}),
    ("one_error", "errors", repeat, {"counts"}),
    ("errors_of_failed", "errors", lambda rows: rows.append({**rows[0], "uri": FIRST}), {"counts"}),
    ("duplicate", "images", set_in(0, dup_of="s3://photos/01.jpg"), set()),
    ("duplicate", "images", set_in(3, status="duplicate", dup_of="s3://gone"), {"errors_of_failed", "counts"}),
    ("kind", "tags", set_in(0, x_min=None), {"box"}),
    ("kind", "tags", set_in(4, x_min=1.0), {"box"}),
    ("kind", "tags", set_in(4, kind="word"), set()),
    ("box", "tags", set_in(0, x_max=641.0), set()),
    ("box", "tags", set_in(0, y_min=-1.0), set()),
    ("box", "tags", set_in(1, x_min=9.0), set()),
    ("box", "tags", set_in(1, x_max=math.nan), set()),
    ("score", "tags", set_in(0, score=1.5), set()),
    ("score", "tags", set_in(0, score=-0.1), set()),
    ("score", "tags", set_in(0, score=math.nan), set()),
    ("rank", "tags", set_in(1, rank=3), set()),
    ("rank", "tags", set_in(1, rank=1), set()),
    ("rank", "tags", set_in(2, rank=0), set()),
    ("parent", "tags", set_in(2, parent="det@000000000000#7"), set()),
    ("counts", "errors", set_in(0, code="empty"), set()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "table", "change", "also"), ROWS_BROKEN)
def test_a_row_that_breaks_a_promise_is_found(
    out: MadeOut, name: str, table: str, change: Callable[[Rows], Any], also: set[str]
) -> None:
    out.edit_rows(table, change)
    found = broken(out)
    assert name in found
    assert set(found) <= {name} | also
    assert all(uri for uri, _ in found[name].examples)


def test_every_promise_about_rows_has_a_test_that_breaks_it() -> None:
    assert {promise.name for promise in PROMISES} - {name for name, *_ in ROWS_BROKEN} == {"listed_once"}


def test_a_uri_that_is_listed_twice_is_found(out: MadeOut) -> None:
    path = Path(out.layout.index_part("part-00000.parquet"))
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 9), table.slice(0, 1)]), path)
    found = broken(out)
    assert found["listed_once"].examples == [(FIRST, "2 times")]
    assert "index" in found, "its digest is not that of index.json either"


def test_duplicates_that_name_a_tagged_image_are_counted(out: MadeOut) -> None:
    out.edit_rows("images", set_in(3, status="duplicate", dup_of=FIRST))
    out.edit_rows("errors", list.clear)
    out.edit_commit(num_failed=0, failed_by_code={})
    report = verify(out.uri)
    assert report.ok
    assert report.num_duplicate == 1


FILES_BROKEN: list[tuple[str, Callable[[MadeOut], Any], set[str]]] = [
    ("orphan", lambda out: out.part("images").unlink(), {"to_do", "sum"}),
    ("orphan", lambda out: (out.path / "tags/mine.parquet").write_bytes(b"x"), set()),
    ("whole", lambda out: out.part("tags").unlink(), {"num_tags", "counts"}),
    ("whole", lambda out: out.part("errors").unlink(), {"one_error", "counts"}),
    ("readable", lambda out: out.part("tags").write_bytes(b"PAR1"), {"digest", "num_tags", "counts"}),
    ("readable", lambda out: out.part("images").write_bytes(b""), {"to_do", "sum"}),
    ("readable", lambda out: out.edit("errors", lambda t: t.drop_columns("stage")), {"one_error", "counts"}),
    ("digest", lambda out: pq.write_table(pq.read_table(out.part("tags")), out.part("tags")), set()),
    ("commit", lambda out: out.edit("images", lambda t: t.replace_schema_metadata({}), sign=False), set()),
    ("commit", lambda out: out.edit_commit(first=4), set()),
    ("counts", lambda out: out.edit_commit(num_tags=3), set()),
    ("bundle", lambda out: out.part("images").rename(out.path / f"images/part-{0:012}-{2:012}.parquet"),
        {"position", "commit", "whole", "orphan", "one_error", "num_tags", "counts"}),
    ("readable", lambda out: Path(out.layout.index_part("part-00000.parquet")).unlink(),
        {"beyond", "sum"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "also"), FILES_BROKEN)
def test_a_file_that_breaks_a_promise_is_found(
    out: MadeOut, name: str, change: Callable[[MadeOut], Any], also: set[str]
) -> None:
    change(out)
    found = broken(out)
    assert name in found
    assert set(found) <= {name} | also


def test_every_promise_about_files_has_a_test_that_breaks_it() -> None:
    assert set(FILE_PROMISES) - {name for name, *_ in FILES_BROKEN} == {"index"}


def test_a_run_that_writes_now_may_have_parts_that_are_not_committed(out: MadeOut) -> None:
    out.part("images").unlink()
    assert set(broken(out, is_live=True)) == {"to_do", "sum"}


def test_an_index_json_that_skips_positions_is_found(out: MadeOut) -> None:
    path = Path(out.layout.index)
    content = json.loads(path.read_text())
    content["parts"][0]["first"] = 4
    path.write_text(json.dumps(content))
    assert "begins at position 4, and 0 comes next" in str(broken(out)["index"].examples)


def test_examples_are_capped_unless_all_are_wanted(out: MadeOut) -> None:
    for part in out.path.glob("images/*"):
        part.unlink()
    assert len(broken(out, max_examples=3)["to_do"].examples) == 3
    found = broken(out, max_examples=None)["to_do"]
    assert (found.num_violations, len(found.examples)) == (10, 10)


def batchtag(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import typer, batchtag.cli.tables as t; app = typer.Typer(); t.register(app); app()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_the_command_says_what_it_checked_and_ends_with_0_or_1(out: MadeOut) -> None:
    whole = batchtag("verify", out.uri)
    assert whole.returncode == 0, whole.stderr
    assert "every promise is kept" in whole.stdout
    assert "scores lie in [0, 1]" in whole.stdout
    out.edit_rows("tags", set_in(0, score=2.0))
    flawed = batchtag("verify", out.uri)
    assert flawed.returncode == 1
    assert FIRST in flawed.stdout
    as_json = batchtag("verify", out.uri, "--json")
    assert as_json.returncode == 1
    report = json.loads(as_json.stdout)
    assert [check["name"] for check in report["checks"] if check["num_violations"]] == ["score"]

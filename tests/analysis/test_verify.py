"""Each rule about an output is broken once, and `verify` must report it; an undamaged output passes all checks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchtag.analysis.verify import verify
from batchtag.analysis.verify_files import FILE_RULES
from batchtag.analysis.verify_report import Check
from batchtag.analysis.verify_rules import ROW_RULES
from batchtag.errors import UsageError
from batchtag.output.schemas import parquet_bytes
from tests.support.made_out import MadeOut, make_out
from tests.support.s3server import S3Server
from tests.support.started import RunCommand

FIRST = "s3://photos/00.jpg"
Rows = list[dict[str, Any]]


@pytest.fixture
def out(tmp_path: Path) -> MadeOut:
    return make_out(str(tmp_path / "o'u t[*]?"))


def failed_checks(out: MadeOut, **options: Any) -> dict[str, Check]:
    report = verify(out.uri, **options)
    assert report.ok == all(check.ok for check in report.checks)
    return {check.name: check for check in report.checks if not check.ok}


def test_an_output_that_a_run_wrote_passes_all_checks(out: MadeOut) -> None:
    report = verify(out.uri)
    assert report.ok
    assert (report.num_listed, report.num_tagged, report.num_failed, report.num_duplicate) == (10, 8, 2, 0)
    assert (report.num_tags, report.num_parts, report.num_to_do) == (40, 3, 0)
    assert "8 tagged + 2 failed + 0 duplicate of 10 images" in report.summary()
    assert "3 parts: all 26 checks passed (" in report.summary()
    assert {check.name for check in report.checks} == {*FILE_RULES, *(rule.name for rule in ROW_RULES), "counts", "sum"}


def test_an_output_on_s3_is_verified(s3: S3Server, bucket: str) -> None:
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
    failed = failed_checks(out)
    assert set(failed) == {"to_do", "sum"}
    assert failed["to_do"].num_violations == (4 if commit else 10)
    assert ("s3://photos/04.jpg", "position 4 is still to do") in failed["to_do"].examples


def test_an_empty_index_is_complete(tmp_path: Path) -> None:
    assert verify(make_out(str(tmp_path), num_images=0).uri).ok


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no tables of batchtag.*name the --out"):
        verify(str(tmp_path))


def set_values(row: int, **values: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[row].update(values)


def repeat_first_row(rows: Rows) -> None:
    rows.append(rows[0])


ROW_DAMAGES: list[tuple[str, str, Callable[[Rows], Any], set[str]]] = [
    ("repeated", "images", repeat_first_row, {"counts", "sum"}),
    ("beyond", "images", lambda rows: rows.append({**rows[0], "position": 99}), {"position", "counts", "sum"}),
    ("to_do", "images", lambda rows: rows.pop(), {"counts", "sum", "one_error", "errors_of_failed"}),
    ("uri", "images", set_values(0, uri="s3://photos/x.jpg"), {"num_tags", "tags_of_tagged"}),
    ("position", "images", set_values(0, position=4), {"repeated", "uri", "to_do"}),
    ("status", "images", set_values(0, status="done"), {"tags_of_tagged", "counts", "sum"}),
    ("num_tags", "images", set_values(0, num_tags=4), set()),
    ("tags_of_tagged", "tags", set_values(0, uri="s3://photos/03.jpg"), {"num_tags", "rank", "parent", "box"}),
    ("one_error", "errors", list.clear, {"counts"}),
    ("one_error", "errors", repeat_first_row, {"counts"}),
    ("errors_of_failed", "errors", lambda rows: rows.append({**rows[0], "uri": FIRST}), {"counts"}),
    ("duplicate", "images", set_values(0, dup_of="s3://photos/01.jpg"), set()),
    ("duplicate", "images", set_values(3, status="duplicate", dup_of="s3://unlisted"), {"errors_of_failed", "counts"}),
    ("kind", "tags", set_values(0, x_min=None), {"box"}),
    ("kind", "tags", set_values(4, x_min=1.0), {"box"}),
    ("kind", "tags", set_values(4, kind="word"), set()),
    ("box", "tags", set_values(0, x_max=641.0), set()),
    ("box", "tags", set_values(0, y_min=-1.0), set()),
    ("box", "tags", set_values(1, x_min=9.0), set()),
    ("box", "tags", set_values(1, x_max=math.nan), set()),
    ("score", "tags", set_values(0, score=1.5), set()),
    ("score", "tags", set_values(0, score=-0.1), set()),
    ("score", "tags", set_values(0, score=math.nan), set()),
    ("rank", "tags", set_values(1, rank=3), set()),
    ("rank", "tags", set_values(1, rank=1), set()),
    ("rank", "tags", set_values(2, rank=0), set()),
    ("parent", "tags", set_values(2, parent="det@000000000000#7"), set()),
    ("counts", "errors", set_values(0, code="empty"), set()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "table", "change", "also"), ROW_DAMAGES)
def test_a_row_that_breaks_a_rule_is_reported(
    out: MadeOut, name: str, table: str, change: Callable[[Rows], Any], also: set[str]
) -> None:
    out.edit_rows(table, change)
    failed = failed_checks(out)
    assert name in failed
    assert set(failed) <= {name} | also
    assert all(uri for uri, _ in failed[name].examples)


def test_every_rule_about_rows_is_broken_by_a_test() -> None:
    assert {rule.name for rule in ROW_RULES} - {name for name, *_ in ROW_DAMAGES} == {"listed_once"}


def test_a_uri_that_is_in_the_index_twice_is_reported(out: MadeOut) -> None:
    path = Path(out.layout.index_part("part-00000.parquet"))
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 9), table.slice(0, 1)]), path)
    failed = failed_checks(out)
    assert failed["listed_once"].examples == [(FIRST, "2 times")]
    assert "index" in failed, "the digest of the index part is wrong too"


def test_duplicates_that_name_a_tagged_image_are_counted(out: MadeOut) -> None:
    out.edit_rows("images", set_values(3, status="duplicate", dup_of=FIRST))
    out.edit_rows("errors", list.clear)
    out.edit_commit(num_failed=0, failed_by_code={}, files={"errors": {"rows": 0}})
    report = verify(out.uri)
    assert report.ok
    assert report.num_duplicate == 1


FILE_DAMAGES: list[tuple[str, Callable[[MadeOut], Any], set[str]]] = [
    ("orphan", lambda out: out.part("images").unlink(), {"to_do", "sum"}),
    ("orphan", lambda out: (out.path / "tags/other.parquet").write_bytes(b"x"), set()),
    ("whole", lambda out: out.part("tags").unlink(), {"num_tags", "counts"}),
    ("whole", lambda out: out.part("errors").unlink(), {"one_error", "counts"}),
    ("readable", lambda out: out.part("tags").write_bytes(b"PAR1"), {"digest", "num_tags", "counts"}),
    ("readable", lambda out: out.part("images").write_bytes(b""), {"to_do", "sum"}),
    ("readable", lambda out: out.edit("errors", lambda t: t.drop_columns("stage")), {"one_error", "counts"}),
    ("digest", lambda out: pq.write_table(pq.read_table(out.part("tags")), out.part("tags")), set()),
    ("commit", lambda out: out.edit("images", lambda t: t.replace_schema_metadata({}), sign=False), set()),
    ("commit", lambda out: out.edit_commit(first=4), set()),
    ("commit", lambda out: out.edit_commit(files={"tags": {"size": 9}}), set()),
    ("commit", lambda out: out.write_commit({**out.read_commit(), "files": {"tags": {"sha256": ""}}}), set()),
    ("counts", lambda out: out.edit_commit(num_tags=3), set()),
    ("counts", lambda out: out.edit_commit(files={"tags": {"rows": 3}}), set()),
    ("whole", lambda out: out.edit_commit(files={"embeddings": {"sha256": "0" * 64, "rows": 8}}), set()),
    ("bundle", lambda out: out.part("images").rename(out.path / f"images/part-{0:012}-{2:012}.parquet"),
        {"position", "commit", "whole", "orphan", "one_error", "num_tags", "counts"}),
    ("readable", lambda out: Path(out.layout.index_part("part-00000.parquet")).unlink(),
        {"beyond", "sum"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "also"), FILE_DAMAGES)
def test_a_file_that_breaks_a_rule_is_reported(
    out: MadeOut, name: str, change: Callable[[MadeOut], Any], also: set[str]
) -> None:
    change(out)
    failed = failed_checks(out)
    assert name in failed
    assert set(failed) <= {name} | also


def test_every_rule_about_files_is_broken_by_a_test() -> None:
    assert set(FILE_RULES) - {name for name, *_ in FILE_DAMAGES} == {"index"}


def add_embeddings(out: MadeOut, data: bytes) -> None:
    """Add a table that this version does not know to the first part, as a later version might."""
    path = out.part("embeddings")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def test_a_file_of_an_unknown_table_that_a_commit_names_is_checked_too(out: MadeOut) -> None:
    data = parquet_bytes(pa.table({"uri": [FIRST], "vector": [b"0"]}))
    add_embeddings(out, data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "rows": 1}
    out.edit_commit(files={"embeddings": entry})
    assert verify(out.uri).ok
    out.edit_commit(files={"embeddings": {**entry, "rows": 2}})
    assert failed_checks(out)["counts"].examples[0][1] == "the file of embeddings has 1 rows, the commit names 2"
    out.edit_commit(files={"embeddings": entry})
    add_embeddings(out, data + b" ")
    assert set(failed_checks(out)) == {"digest", "readable"}


def test_a_footer_of_version_0_1_is_checked_by_its_two_digests(out: MadeOut) -> None:
    commit = out.read_commit()
    files = commit.pop("files")
    old = commit | {f"{table}_sha256": files[table]["sha256"] for table in ("tags", "errors")}
    out.write_commit(old)
    assert verify(out.uri).ok
    out.write_commit({**old, "errors_sha256": "0" * 64})
    assert set(failed_checks(out)) == {"digest"}


def test_with_live_parts_that_are_not_committed_yet_are_allowed(out: MadeOut) -> None:
    out.part("images").unlink()
    assert set(failed_checks(out, is_live=True)) == {"to_do", "sum"}


def test_an_index_json_that_skips_positions_is_reported(out: MadeOut) -> None:
    path = Path(out.layout.index)
    content = json.loads(path.read_text())
    content["parts"][0]["first"] = 4
    path.write_text(json.dumps(content))
    assert "begins at position 4, expected 0" in str(failed_checks(out)["index"].examples)


def test_examples_are_limited_unless_all_are_requested(out: MadeOut) -> None:
    for part in out.path.glob("images/*"):
        part.unlink()
    assert len(failed_checks(out, max_examples=3)["to_do"].examples) == 3
    to_do = failed_checks(out, max_examples=None)["to_do"]
    assert (to_do.num_violations, len(to_do.examples)) == (10, 10)


def test_the_verify_command_names_every_check_and_exits_with_0_or_1(out: MadeOut, run_command: RunCommand) -> None:
    intact = run_command("verify", out.uri)
    assert intact.code == 0, intact.err
    assert "all 26 checks passed" in intact.out
    assert "scores lie in [0, 1]" in intact.out
    out.edit_rows("tags", set_values(0, score=2.0))
    damaged = run_command("verify", out.uri)
    assert damaged.code == 1
    assert FIRST in damaged.out
    assert "1 of 26 checks failed" in damaged.out
    as_json = run_command("verify", out.uri, "--json")
    assert as_json.code == 1
    report = json.loads(as_json.out)
    assert [check["name"] for check in report["checks"] if check["num_violations"]] == ["score"]

"""SQL over an OUT: what it sees, and what it says when the SQL does not work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from batchtag.analysis.query import query
from batchtag.cli import tables
from batchtag.errors import UsageError
from batchtag.output.job_identity import store_thresholds
from batchtag.output.schemas import TABLES
from tests.support.made_out import CROPS, DETECTOR, WHOLE, make_out
from tests.support.s3server import S3Server

COUNT = "select count(*) as n from {}"


def count(out: str, table: str) -> int:
    return int(query(out, COUNT.format(table))["n"][0].as_py())


@pytest.mark.parametrize("name", ["out", "o'u\"t", "o t", "[a-z]*?{x}", "ünï%20#;--", "-"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    out = make_out(str(tmp_path / name))
    assert [count(out.uri, table) for table in TABLES] == [10, 40, 2]
    assert count(f"{out.uri}/", "images") == 10


def test_an_out_on_s3_is_read_there(s3: S3Server, bucket: str) -> None:
    out = make_out(f"{bucket}/o'ut *", options=dict(s3.storage_options))
    found = query(out.uri, "select uri from images where status = 'failed' order by 1", s3.storage_options)
    assert found["uri"].to_pylist() == ["s3://photos/03.jpg", "s3://photos/08.jpg"]


def test_only_committed_parts_are_seen(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    out.part("images", 2).unlink()
    assert [count(out.uri, table) for table in TABLES] == [8, 35, 1]


def test_tables_without_parts_are_empty_and_have_their_columns(tmp_path: Path) -> None:
    out = make_out(str(tmp_path), commit=False)
    for table, schema in TABLES.items():
        found = query(out.uri, f"select * from {table}")
        assert (found.num_rows, found.column_names) == (0, schema.names)


def test_sql_that_does_not_work_is_answered_with_duckdbs_words(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    with pytest.raises(UsageError, match=r'imagez does not exist[\s\S]*Did you mean "images"'):
        query(out.uri, "select * from imagez")
    with pytest.raises(UsageError, match="Could not convert string"):
        query(out.uri, "select uri::int from images")
    with pytest.raises(UsageError, match="is empty"):
        query(out.uri, "")


TAGS = "select tag, round(score, 1) as score, count(*) as n from {} group by all order by all"


def test_confident_has_the_tags_that_reach_one_half_where_no_evaluation_said_better(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    found = query(out.uri, TAGS.format("confident")).to_pylist()
    assert [(row["tag"], row["n"]) for row in found] == [("bottle", 8), ("fizz", 8), ("home", 8)]
    assert query(out.uri, "from confident").schema == query(out.uri, "from tags").schema


def test_confident_goes_by_the_threshold_of_model_and_tag_and_one_that_equals_a_score_keeps_it(tmp_path: Path) -> None:
    """Each image has bottles of 0.9 and 0.2, a `fizz` of 0.8, a `home` of 0.7 and a `shop` of 0.3, as float32."""
    out = make_out(str(tmp_path))
    evaluated = [
        replace(DETECTOR, thresholds=(("bottle", 0.2),)),
        replace(CROPS, thresholds=(("fizz", 0.8),)),
        replace(WHOLE, thresholds=(("home", 0.71), ("shop", 0.3))),
    ]
    store_thresholds(evaluated, store=out.store, layout=out.layout)
    found = query(out.uri, TAGS.format("confident")).to_pylist()
    assert [(row["tag"], row["n"]) for row in found] == [("bottle", 8), ("bottle", 8), ("fizz", 8), ("shop", 8)]


def test_a_threshold_of_another_model_means_nothing_here(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    other = replace(DETECTOR, digest="9" * 12, thresholds=(("bottle", 0.1),))
    store_thresholds([other], store=out.store, layout=out.layout)
    assert query(out.uri, "select count(*) as n from confident where tag = 'bottle'").to_pylist() == [{"n": 8}]


def test_a_folder_that_is_no_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tables of batchtag"):
        query(str(tmp_path), "select 1")


def run(*arguments: str) -> str:
    app = typer.Typer()
    tables.register(app)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


SQL = """select status, count(*) as n, max(tagged_at) as last, 'a[b],"c' as text, null as nothing
    from images group by 1 order by 2"""


def test_the_command_prints_a_table_json_lines_or_csv(tmp_path: Path) -> None:
    out = make_out(str(tmp_path)).uri
    table = run("query", out, SQL)
    assert "failed" in table
    assert 'a[b],"c' in table
    rows = [json.loads(line) for line in run("query", out, SQL, "--json").splitlines()]
    assert [(row["status"], row["n"], row["nothing"]) for row in rows] == [("failed", 2, None), ("tagged", 8, None)]
    assert rows[0]["last"] == "2026-01-02T00:00:00+00:00"
    csv = run("query", out, SQL, "--csv").splitlines()
    assert csv[0] == "status,n,last,text,nothing"
    assert csv[1] == 'failed,2,2026-01-02T00:00:00+00:00,"a[b],""c",'


def test_a_long_answer_is_cut_on_the_screen_only(tmp_path: Path) -> None:
    out = make_out(str(tmp_path)).uri
    sql = "select range as i from range(20_000)"
    assert run("query", out, sql).count("\n") < 200
    assert len(run("query", out, sql, "--json").splitlines()) == 20_000


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("copy images to 'x.csv'", "the SQL is copy; it must be one select over images, tags, errors and confident"),
        ("create table x as select 1", "the SQL is create; it must be one select"),
        ("select 1; select 2", "the SQL is select and select; it must be one select"),
    ],
)
def test_sql_that_does_more_than_read_is_refused(tmp_path: Path, sql: str, message: str) -> None:
    out = make_out(str(tmp_path))
    with pytest.raises(UsageError, match=message):
        query(out.uri, sql)

"""SQL over outputs: which rows it reads, and the messages for SQL that does not work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from batchtag.analysis.database import open_database
from batchtag.analysis.query import add_tables, query
from batchtag.errors import UsageError
from batchtag.output.job_identity import store_thresholds
from batchtag.output.schemas import TABLES
from tests.support.made_out import CROPS, DETECTOR, WHOLE, make_out
from tests.support.s3server import S3Server
from tests.support.started import RunCommand

COUNT = "select count(*) as n from {}"


def count_rows(out: str, table: str) -> int:
    return int(query(out, COUNT.format(table))["n"][0].as_py())


@pytest.mark.parametrize("name", ["out", "o'u\"t", "o t", "[a-z]*?{x}", "ünï%20#;--", "-"])
def test_an_output_is_read_whatever_characters_its_path_has(tmp_path: Path, name: str) -> None:
    out = make_out(str(tmp_path / name))
    assert [count_rows(out.uri, table) for table in TABLES] == [10, 40, 2]
    assert count_rows(f"{out.uri}/", "images") == 10


def test_an_output_on_s3_is_read(s3: S3Server, bucket: str) -> None:
    out = make_out(f"{bucket}/o'ut *", options=dict(s3.storage_options))
    failed = query(out.uri, "select uri from images where status = 'failed' order by 1", s3.storage_options)
    assert failed["uri"].to_pylist() == ["s3://photos/03.jpg", "s3://photos/08.jpg"]


def test_only_committed_parts_are_read(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    out.part("images", 2).unlink()
    assert [count_rows(out.uri, table) for table in TABLES] == [8, 35, 1]


def test_tables_without_parts_are_empty_and_have_their_columns(tmp_path: Path) -> None:
    out = make_out(str(tmp_path), commit=False)
    for table, schema in TABLES.items():
        answer = query(out.uri, f"select * from {table}")
        assert (answer.num_rows, answer.column_names) == (0, schema.names)


def test_the_error_for_sql_that_does_not_work_has_the_message_of_duckdb(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    with pytest.raises(UsageError, match=r'imagez does not exist[\s\S]*Did you mean "images"'):
        query(out.uri, "select * from imagez")
    with pytest.raises(UsageError, match="Could not convert string"):
        query(out.uri, "select uri::int from images")
    with pytest.raises(UsageError, match="is empty"):
        query(out.uri, "")


COUNT_BY_TAG = "select tag, round(score, 1) as score, count(*) as n from {} group by all order by all"


def test_confident_has_the_tags_that_score_at_least_one_half_if_no_evaluation_found_thresholds(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    rows = query(out.uri, COUNT_BY_TAG.format("confident")).to_pylist()
    assert [(row["tag"], row["n"]) for row in rows] == [("bottle", 8), ("fizz", 8), ("home", 8)]
    assert query(out.uri, "from confident").schema == query(out.uri, "from tags").schema


def test_confident_uses_the_threshold_of_each_model_and_tag_and_keeps_a_score_that_equals_it(tmp_path: Path) -> None:
    """Each image has bottles of 0.9 and 0.2, a `fizz` of 0.8, a `home` of 0.7 and a `shop` of 0.3, as float32."""
    out = make_out(str(tmp_path))
    evaluated = [
        replace(DETECTOR, thresholds=(("bottle", 0.2),)),
        replace(CROPS, thresholds=(("fizz", 0.8),)),
        replace(WHOLE, thresholds=(("home", 0.71), ("shop", 0.3))),
    ]
    store_thresholds(evaluated, store=out.store, layout=out.layout)
    rows = query(out.uri, COUNT_BY_TAG.format("confident")).to_pylist()
    assert [(row["tag"], row["n"]) for row in rows] == [("bottle", 8), ("bottle", 8), ("fizz", 8), ("shop", 8)]


def test_a_threshold_of_another_model_is_ignored(tmp_path: Path) -> None:
    out = make_out(str(tmp_path))
    other = replace(DETECTOR, digest="9" * 12, thresholds=(("bottle", 0.1),))
    store_thresholds([other], store=out.store, layout=out.layout)
    assert query(out.uri, "select count(*) as n from confident where tag = 'bottle'").to_pylist() == [{"n": 8}]


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"holds no tables of batchtag: _batchtag/index\.json does not exist; name the --out"
    ):
        query(str(tmp_path), "select 1")


SQL = """select status, count(*) as n, max(tagged_at) as last, 'a[b],"c' as text, null as nothing
    from images group by 1 order by 2"""


def test_the_query_command_prints_a_table_or_json_lines_or_csv(tmp_path: Path, run_command: RunCommand) -> None:
    out = make_out(str(tmp_path)).uri
    table = run_command("query", out, SQL).out
    assert "failed" in table
    assert 'a[b],"c' in table
    rows = [json.loads(line) for line in run_command("query", out, SQL, "--json").out.splitlines()]
    assert [(row["status"], row["n"], row["nothing"]) for row in rows] == [("failed", 2, None), ("tagged", 8, None)]
    assert rows[0]["last"] == "2026-01-02T00:00:00+00:00"
    csv = run_command("query", out, SQL, "--csv").out.splitlines()
    assert csv[0] == "status,n,last,text,nothing"
    assert csv[1] == 'failed,2,2026-01-02T00:00:00+00:00,"a[b],""c",'


def test_a_long_answer_is_shortened_on_the_screen_and_complete_as_json(tmp_path: Path, run_command: RunCommand) -> None:
    out = make_out(str(tmp_path)).uri
    sql = "select range as i from range(20_000)"
    assert run_command("query", out, sql).out.count("\n") < 200
    assert len(run_command("query", out, sql, "--json").out.splitlines()) == 20_000


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("copy images to 'x.csv'", "the SQL is copy; it must be one select over images, tags, errors and confident"),
        ("create table x as select 1", "the SQL is create; it must be one select"),
        ("select 1; select 2", "the SQL is select and select; it must be one select"),
    ],
)
def test_sql_other_than_one_select_is_an_error(tmp_path: Path, sql: str, message: str) -> None:
    out = make_out(str(tmp_path))
    with pytest.raises(UsageError, match=message):
        query(out.uri, sql)


def test_two_outputs_are_joined_in_one_connection_as_a_and_b(tmp_path: Path) -> None:
    first, second = make_out(str(tmp_path / "first")), make_out(str(tmp_path / "se'cond"), num_images=4)
    store_thresholds([replace(DETECTOR, thresholds=(("bottle", 0.1),))], store=second.store, layout=second.layout)
    with open_database() as database:
        add_tables(database, first.uri, schema="a")
        add_tables(database, second.uri, schema="b")

        def fetch(sql: str) -> tuple[object, ...] | None:
            return database.connection.execute(sql).fetchone()

        assert fetch("select (select count(*) from a.images), (select count(*) from b.images)") == (10, 4)
        joined = "select count(*), count(distinct uri) from a.tags join b.tags using (uri, model, rank, parent)"
        assert fetch("select count(*), count(distinct uri) from a.images join b.images using (uri)") == (4, 4)
        assert fetch(joined) == (3, 3), "three tagged images, each with one brand, the only tag with a parent"
        assert fetch("select count(*) from a.images anti join b.images using (uri)") == (6,)
        bottles = "select count(*) from {}.confident where tag = 'bottle'"
        assert fetch(bottles.format("a")) == (8,)
        assert fetch(bottles.format("b")) == (6,), "each output has its own thresholds"


def test_an_output_without_tags_is_joined_with_one_that_has_some(tmp_path: Path) -> None:
    tagged, new = make_out(str(tmp_path / "tagged")), make_out(str(tmp_path / "new"), commit=False)
    with open_database() as database:
        add_tables(database, tagged.uri, schema="before")
        add_tables(database, new.uri, schema='"after" 2')
        sql = """select count(*) from before.images anti join """ + '"""after"" 2".images using (uri)'
        assert database.connection.execute(sql).fetchone() == (10,)

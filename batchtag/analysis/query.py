"""SQL over the tables of an OUT: `images`, `tags` and `errors`, as far as they are committed at this moment.

Anybody's engine may read the same Parquet; this one needs no set-up. Tags of a bundle in flight are left out, so that
counts of the three tables agree while a run writes. `confident` is `tags` without the doubtful ones: the rows that
reach the threshold which the evaluation of their model found best for their tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from batchtag.analysis.database import Database, no_tables, open_database
from batchtag.errors import UsageError
from batchtag.output.index import read_index
from batchtag.output.job_identity import read_thresholds
from batchtag.output.layout import Layout
from batchtag.output.schemas import TABLES
from batchtag.storage import absolute_uri, open_store

BATCH_ROWS = 10_000
DEFAULT_THRESHOLD = 0.5
"""Where no evaluation said better."""


def query(out: str, sql: str, storage_options: Mapping[str, Any] | None = None) -> pa.Table:
    """The answer, whole. Raises UsageError for SQL that does not work, with what DuckDB says of it."""
    with open_query(out, sql, storage_options) as batches:
        return batches.read_all()


@contextmanager
def open_query(out: str, sql: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatchReader]:
    """The answer as it is computed, for one that does not fit into memory. Reads raise what `query` raises."""
    uri = absolute_uri(out).rstrip("/") or "/"
    store, layout = open_store(uri, storage_options), Layout(uri)
    with open_database(store=store, layout=layout) as database, _explained():
        if not database.parts["images"] and read_index(store=store, layout=layout) is None:
            raise no_tables(out)
        define_committed(database)
        _define_confident(database)
        _check_reads_only(database, sql)
        relation = database.connection.sql(sql)
        assert relation is not None, "a select gives rows"
        yield relation.to_arrow_reader(BATCH_ROWS)


_READING = ("SELECT", "EXPLAIN")


def _check_reads_only(database: Database, sql: str) -> None:
    statements = database.connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1 or kinds[0] not in _READING:
        raise UsageError(
            f"the SQL is {' and '.join(kinds).lower() or 'empty'}; it must be one select over images, "
            "tags, errors and confident"
        )


def define_committed(database: Database) -> None:
    """The three views over the parts whose images file is there."""
    committed = database.parts["images"].keys()
    for table in TABLES:
        database.define(table, database.parts[table].keys() & committed)


def _define_confident(database: Database) -> None:
    """The view `confident` over `tags`. Compared as float32, as scores are stored: 0.9 there is below a double's."""
    by_model = read_thresholds(store=database.store, layout=database.layout)
    rows = [
        {"model": model, "tag": tag, "score": score}
        for model, by_tag in by_model.items()
        for tag, score in by_tag.items()
    ]
    columns = pa.schema([("model", pa.string()), ("tag", pa.string()), ("score", pa.float32())])
    database.connection.register("_thresholds", pa.Table.from_pylist(rows, schema=columns))
    database.connection.execute(
        "create view confident as select tags.* from tags left join _thresholds as least using (model, tag) "
        f"where tags.score >= coalesce(least.score, cast({DEFAULT_THRESHOLD} as float))"
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"the SQL does not work: {error}") from error

"""SQL over the tables of an output: `images`, `tags`, `errors` and `confident`, as they are committed at this moment.

Other engines may read the same Parquet files; this one needs no set-up. Tags of a bundle that is being written are left
out, so that the counts of the three tables agree while a run writes. `confident` has the rows of `tags` that reach a
threshold: the best one that an evaluation of their model found for their tag, or else 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from batchtag.analysis.database import MAIN_SCHEMA, Database, OutputFiles, no_tables_error, open_database
from batchtag.errors import UsageError
from batchtag.output.index import read_index
from batchtag.output.job_identity import read_thresholds
from batchtag.output.layout import Layout
from batchtag.output.schemas import TABLES
from batchtag.storage import absolute_uri, open_store

BATCH_ROWS = 10_000
"""Number of rows in a batch of an answer."""
DEFAULT_THRESHOLD = 0.5
"""Threshold of a tag for which no evaluation found one."""
_READ_STATEMENTS = ("SELECT", "EXPLAIN")


def query(out: str, sql: str, storage_options: Mapping[str, Any] | None = None) -> pa.Table:
    """Return the whole answer of a select. Raises UsageError with DuckDB's message for SQL that does not work."""
    with open_query(out, sql, storage_options) as batches:
        return batches.read_all()


@contextmanager
def open_query(out: str, sql: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[pa.RecordBatchReader]:
    """Yield the answer of a select batch by batch, while it is computed. Reading a batch raises what `query` raises."""
    with open_database() as database, _usage_errors():
        add_tables(database, out, storage_options)
        _check_reads_only(database, sql)
        relation = database.connection.sql(sql)
        assert relation is not None, "a select returns rows"
        yield relation.to_arrow_reader(BATCH_ROWS)


def add_tables(
    database: Database, out: str, storage_options: Mapping[str, Any] | None = None, *, schema: str = MAIN_SCHEMA
) -> OutputFiles:
    """Define the views `images`, `tags`, `errors` and `confident` of an output in a schema of the database.

    A call for each output, each with a schema of its own, makes several outputs readable together, as `a.tags` and
    `b.tags`. Raises UsageError if a run has not written `out`, StorageError if it cannot be read.
    """
    uri = absolute_uri(out).rstrip("/") or "/"
    store, layout = open_store(uri, storage_options), Layout(uri)
    output = database.add_output(store=store, layout=layout, schema=schema)
    if not output.parts["images"] and read_index(store=store, layout=layout) is None:
        raise no_tables_error(out)
    define_committed_tables(output)
    _define_confident(output)
    return output


def define_committed_tables(output: OutputFiles) -> None:
    """Define the views of the three tables over the parts that have an images file, which is their commit."""
    committed = output.parts["images"].keys()
    for table in TABLES:
        output.define_view(table, output.parts[table].keys() & committed)


def _define_confident(output: OutputFiles) -> None:
    """Define `confident` over `tags`.

    Thresholds are compared as float32, as scores are stored: 0.9 as a double is larger than 0.9 as a float32, and a
    score that equals its threshold must stay.
    """
    thresholds = read_thresholds(store=output.store, layout=output.layout)
    rows = [
        {"model": model, "tag": tag, "score": score}
        for model, by_tag in thresholds.items()
        for tag, score in by_tag.items()
    ]
    columns = pa.schema([("model", pa.string()), ("tag", pa.string()), ("score", pa.float32())])
    output.define_table("_thresholds", pa.Table.from_pylist(rows, schema=columns))
    output.connection.execute(
        f"create view {output.sql_name('confident')} as select tags.* from {output.sql_name('tags')} as tags "
        f"left join {output.sql_name('_thresholds')} as thresholds using (model, tag) "
        f"where tags.score >= coalesce(thresholds.score, cast({DEFAULT_THRESHOLD} as float))"
    )


def _check_reads_only(database: Database, sql: str) -> None:
    kinds = [statement.type.name for statement in database.connection.extract_statements(sql)]
    if len(kinds) != 1 or kinds[0] not in _READ_STATEMENTS:
        raise UsageError(
            f"the SQL is {' and '.join(kinds).lower() or 'empty'}; it must be one select over images, "
            "tags, errors and confident"
        )


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Raise errors of the SQL as UsageError, with DuckDB's message."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"the SQL does not work: {error}") from error

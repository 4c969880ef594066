"""SQL over the tables of an OUT: `images`, `tags` and `errors`, as far as they are committed at this moment.

Anybody's engine may read the same Parquet; this one needs no set-up. Tags of a bundle in flight are left out, so that
counts of the three tables agree while a run writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from batchtag.database import Database, no_tables, open_database
from batchtag.errors import UsageError
from batchtag.index import read_index
from batchtag.layout import Layout
from batchtag.storage import absolute_uri, open_store
from batchtag.tables import TABLES

BATCH_ROWS = 10_000


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
            f"the SQL is {' and '.join(kinds).lower() or 'empty'}; it must be one select over images, tags and errors"
        )


def define_committed(database: Database) -> None:
    """The three views over the parts whose images file is there."""
    committed = database.parts["images"].keys()
    for table in TABLES:
        database.define(table, database.parts[table].keys() & committed)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"the SQL does not work: {error}") from error

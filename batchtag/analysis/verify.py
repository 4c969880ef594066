"""Verification of the tables of an output against its index, which is all that is trusted.

The files are checked first (`verify_files`), then the rows (`verify_rules`), in SQL that never holds a row in Python.
An image that is not tagged yet is a violation like any other, so that exit status 0 means: every image of the index has
exactly one outcome. The columns that the rules need are read once, into DuckDB's own tables, which spill to disk: a
million images with five million tags take 16 s of CPU time in this way, and 33 s when every rule reads the Parquet
files again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import duckdb
import pyarrow as pa

from batchtag.analysis.database import OutputFiles, no_tables_error, open_database
from batchtag.analysis.verify_files import FILE_RULES, FileInspection, PartInspection, inspect_files
from batchtag.analysis.verify_report import MAX_EXAMPLES, Check, VerifyReport
from batchtag.analysis.verify_rules import ROW_RULES
from batchtag.errors import StorageError
from batchtag.output.index import Index, IndexPart, read_index
from batchtag.output.layout import PART_PREFIX, PART_SUFFIX, Layout
from batchtag.output.schemas import TABLES
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.types import Status


def verify(
    out: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    is_live: bool = False,
    max_examples: int | None = MAX_EXAMPLES,
    clock: Callable[[], float] = time.monotonic,
) -> VerifyReport:
    """Check all rules of an output and report the violations.

    `is_live` allows the files that a running job has not committed yet. `max_examples` limits the violations that each
    check names; None is without a limit. Raises UsageError if `out` has no tables, and StorageError if it cannot be
    read. Violations are not raised; they are in the report.
    """
    started_at = clock()
    uri = absolute_uri(out).rstrip("/") or "/"
    store, layout = open_store(uri, storage_options), Layout(uri)
    index = read_index(store=store, layout=layout)
    if index is None:
        raise no_tables_error(out)
    with open_database() as database, _storage_errors(out):
        output = database.add_output(store=store, layout=layout)
        inspection = inspect_files(output, index, is_live=is_live)
        _define_tables(output, inspection)
        checks = [*_file_checks(inspection, max_examples), *_row_checks(output, max_examples)]
        checks.append(_check_counts(output, inspection, max_examples))
        num_by_status = dict(_fetch(output, "select status, count(*) from images group by status"))
        num_tags = _fetch(output, "select count(*) from tags")[0][0]
    counts = [num_by_status.get(str(status), 0) for status in (Status.TAGGED, Status.FAILED, Status.DUPLICATE)]
    checks.append(_check_sum(layout, index, counts))
    return VerifyReport(
        out=out,
        num_listed=index.num_images,
        num_tagged=counts[0],
        num_failed=counts[1],
        num_duplicate=counts[2],
        num_tags=num_tags,
        num_parts=len(output.parts["images"]),
        checks=checks,
        seconds=clock() - started_at,
    )


@contextmanager
def _storage_errors(out: str) -> Iterator[None]:
    """Raise DuckDB's errors as StorageError: a file changed or removed after its inspection, or a full disk."""
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(f"{out}: cannot be verified to its end: {error}") from error


_COLUMNS = {
    "images": "uri, position, width, height, status, dup_of, num_tags",
    "tags": "uri, score, kind, model, rank, x_min, y_min, x_max, y_max, parent",
    "errors": "uri, code",
}
"""The columns of each table that the rules need."""


def _define_tables(output: OutputFiles, inspection: FileInspection) -> None:
    """Copy the index and the readable parts into DuckDB's tables; `file` is the name of the file of each row."""
    _define_listed(output, inspection.index_parts)
    for table in TABLES:
        paths = output.part_paths(table, inspection.readable_parts(table))
        rows = f"select *, parse_filename(filename) as file from {output.read_parquet_sql(paths, filename=True)}"
        if not paths:
            output.define_table(f"empty_{table}", TABLES[table].empty_table())
            rows = f"select *, '' as file from empty_{table}"
        output.connection.execute(f"create table {table} as select {_COLUMNS[table]}, file from ({rows})")


def _define_listed(output: OutputFiles, parts: Sequence[IndexPart]) -> None:
    """Define `listed`, the index: one row of (uri, position) for each image."""
    if not parts:
        output.connection.execute("create table listed (uri varchar, position bigint)")
        return
    first_positions = {"name": [part.name for part in parts], "first": [part.first for part in parts]}
    output.define_table("index_parts", pa.table(first_positions))
    paths = [join_uri("_batchtag", "index", part.name) for part in parts]
    for path in paths:
        output.add_file(path, output.store.stat(join_uri(output.layout.out, path)))
    output.connection.execute(
        "create table listed as select uri, first + file_row_number as position from "
        f"{output.read_parquet_sql(paths, filename=True, file_row_number=True)} "
        "join index_parts on parse_filename(filename) = name"
    )


def _fetch(output: OutputFiles, sql: str) -> list[Any]:
    return output.connection.execute(sql).fetchall()


def _file_checks(inspection: FileInspection, max_examples: int | None) -> list[Check]:
    return [
        _check(
            rule,
            meaning,
            [(violation.uri, violation.detail) for violation in inspection.violations if violation.rule == rule],
            max_examples,
        )
        for rule, meaning in FILE_RULES.items()
    ]


def _check(name: str, meaning: str, violations: list[tuple[str, str]], max_examples: int | None) -> Check:
    return Check(name=name, meaning=meaning, num_violations=len(violations), examples=sorted(violations)[:max_examples])


def _row_checks(output: OutputFiles, max_examples: int | None) -> list[Check]:
    checks = []
    limit = "" if max_examples is None else f"limit {max_examples}"
    for rule in ROW_RULES:
        output.connection.execute(f"create or replace temp table violations as {rule.sql}")
        num_violations = _fetch(output, "select count(*) from violations")[0][0]
        examples = _fetch(output, f"select uri, detail from violations order by all {limit}") if num_violations else []
        checks.append(Check(name=rule.name, meaning=rule.meaning, num_violations=num_violations, examples=examples))
    return checks


def _check_counts(output: OutputFiles, inspection: FileInspection, max_examples: int | None) -> Check:
    """Compare the counts in every commit with the rows of its part."""
    num_images = dict(_fetch(output, "select file, count(*) from images group by file"))
    num_tags = dict(_fetch(output, "select file, count(*) from tags group by file"))
    by_status = _fetch(output, "select file, status, count(*) from images group by all")
    num_by_status = {(file, status): n for file, status, n in by_status}
    num_by_code: dict[str, dict[str, int]] = {}
    for file, code, n in _fetch(output, "select file, code, count(*) from errors group by all"):
        num_by_code.setdefault(file, {})[code] = n
    violations = []
    for part, inspected in inspection.parts.items():
        file = f"{PART_PREFIX}{part}{PART_SUFFIX}"
        counted = {
            "num_images": num_images.get(file, 0),
            "num_tagged": num_by_status.get((file, str(Status.TAGGED)), 0),
            "num_failed": num_by_status.get((file, str(Status.FAILED)), 0),
            "num_tags": num_tags.get(file, 0),
            "failed_by_code": num_by_code.get(file, {}),
        }
        differences = _compare_counts(inspected, counted)
        if differences:
            violations.append((output.layout.part("images", part), "; ".join(differences)))
    return _check("counts", "the counts in each commit are those of the rows of its part", violations, max_examples)


def _compare_counts(inspected: PartInspection, counted: Mapping[str, Any]) -> list[str]:
    """Return one text for each count of a part's commit that differs from its rows."""
    if inspected.commit is None:
        return []
    committed = asdict(inspected.commit)
    differences = [
        f"{name} is {committed[name]}, the rows give {n}" for name, n in counted.items() if committed[name] != n
    ]
    for table, file in inspected.commit.files.items():
        num_rows = inspected.num_rows.get(table, file.rows)
        if file.rows not in (-1, num_rows):
            differences.append(f"the file of {table} has {num_rows} rows, the commit names {file.rows}")
    return differences


def _check_sum(layout: Layout, index: Index, counts: Sequence[int]) -> Check:
    total = sum(counts)
    violations = [] if total == index.num_images else [(layout.out, f"{total:,} of {index.num_images:,}")]
    return _check("sum", "tagged + failed + duplicate = images in the index", violations, None)

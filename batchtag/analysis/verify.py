"""Proves the tables of an OUT against its index, which is all that is trusted.

First the files (`partfiles`), then the rows (`promises`), by SQL that never holds a row in Python. What is still to do
breaks a promise like anything else: exit 0 means that every image of the index has its one outcome. The columns that
promises need are read once, into DuckDB's own tables (which spill to disk): a million images with five million tags
take 16 s of CPU time so, and 33 s when every promise reads the Parquet again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb

from batchtag.analysis.database import Database, no_tables, open_database, parquet
from batchtag.analysis.verify_files import FILE_PROMISES, Inspection, inspect_files
from batchtag.analysis.verify_rules import PROMISES
from batchtag.errors import StorageError
from batchtag.output.index import Index, IndexPart, read_index
from batchtag.output.layout import PART_PREFIX, PART_SUFFIX, Layout
from batchtag.output.schemas import TABLES
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.types import Status

MAX_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise, how often it is broken, and the first few (uri, detail) by URI."""

    name: str
    meaning: str
    num_violations: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.num_violations == 0


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked, and what came of it."""

    out: str
    num_listed: int
    num_tagged: int
    num_failed: int
    num_duplicate: int
    num_tags: int
    num_parts: int
    checks: list[Check]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def num_to_do(self) -> int:
        return next(check.num_violations for check in self.checks if check.name == "to_do")

    def summary(self) -> str:
        """The sum that proves a run, in one line."""
        num_broken = sum(not check.ok for check in self.checks)
        verdict = "every promise is kept" if self.ok else f"{num_broken} of {len(self.checks)} promises are broken"
        parts = f"{self.num_parts:,} part{'' if self.num_parts == 1 else 's'}"
        to_do = f" + {self.num_to_do:,} still to do" if self.num_to_do else ""
        return (
            f"{self.out}: {self.num_tagged:,} tagged + {self.num_failed:,} failed + {self.num_duplicate:,} duplicate"
            f"{to_do} of {self.num_listed:,} images in the index, {self.num_tags:,} tags, {parts}: "
            f"{verdict} ({self.seconds:.1f} s)"
        )

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "num_to_do": self.num_to_do, **asdict(self)}


def verify(
    out: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    is_live: bool = False,
    max_examples: int | None = MAX_EXAMPLES,
    clock: Callable[[], float] = time.monotonic,
) -> VerifyReport:
    """The report on an OUT. `is_live` allows for a run that writes now; `max_examples` is for each check, None for all.

    Raises UsageError if this is no OUT, StorageError if it cannot be read; what is wrong inside is in the report.
    """
    began = clock()
    uri = absolute_uri(out).rstrip("/") or "/"
    store, layout = open_store(uri, storage_options), Layout(uri)
    index = read_index(store=store, layout=layout)
    if index is None:
        raise no_tables(out)
    with open_database(store=store, layout=layout) as database, _explained(out):
        seen = inspect_files(database, index, is_live=is_live)
        _define_tables(database, seen)
        checks = [*_checks_of_files(seen, max_examples), *_checks_of_rows(database, max_examples)]
        checks.append(_check_of_counts(database, seen, max_examples))
        by_status = dict(_rows(database, "select status, count(*) from images group by status"))
        num_tags = _rows(database, "select count(*) from tags")[0][0]
    counts = [by_status.get(str(status), 0) for status in (Status.TAGGED, Status.FAILED, Status.DUPLICATE)]
    checks.append(_check_of_sum(layout, index, counts))
    return VerifyReport(
        out=out,
        num_listed=index.num_images,
        num_tagged=counts[0],
        num_failed=counts[1],
        num_duplicate=counts[2],
        num_tags=num_tags,
        num_parts=len(database.parts["images"]),
        checks=checks,
        seconds=clock() - began,
    )


@contextmanager
def _explained(out: str) -> Iterator[None]:
    """A part that goes away or changes after it was looked at, or a full disk: DuckDB says which."""
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(f"{out}: cannot be verified to its end: {error}") from error


_COLUMNS = {
    "images": "uri, position, width, height, status, dup_of, num_tags",
    "tags": "uri, score, kind, model, rank, x_min, y_min, x_max, y_max, parent",
    "errors": "uri, code",
}


def _define_tables(database: Database, seen: Inspection) -> None:
    """`listed`, and the tables with the columns that promises need and the name of each row's `file`."""
    _define_listed(database, seen.index_parts)
    for table in TABLES:
        parts = seen.readable[table] & seen.readable["images"]
        files = [join_uri(table, f"{PART_PREFIX}{part}{PART_SUFFIX}") for part in sorted(parts)]
        if files:
            rows = f"select *, parse_filename(filename) as file from {parquet(files, filename=True)}"
        else:
            database.connection.register(f"no_{table}", TABLES[table].empty_table())
            rows = f"select *, '' as file from no_{table}"
        database.connection.execute(f"create table {table} as select {_COLUMNS[table]}, file from ({rows})")


def _define_listed(database: Database, parts: list[IndexPart]) -> None:
    firsts = [(part.name, part.first) for part in parts]
    database.connection.execute("create table firsts (name varchar, first bigint)")
    if not firsts:
        database.connection.execute("create table listed (uri varchar, position bigint)")
        return
    database.connection.executemany("insert into firsts values (?, ?)", firsts)
    paths = [join_uri("_batchtag", "index", part.name) for part in parts]
    for path in paths:
        database.add_file(path, database.store.stat(join_uri(database.layout.out, path)))
    database.connection.execute(
        f"create table listed as select uri, first + file_row_number as position "
        f"from {parquet(paths, filename=True, file_row_number=True)} join firsts on parse_filename(filename) = name"
    )


def _rows(database: Database, sql: str) -> list[Any]:
    return database.connection.execute(sql).fetchall()


def _checks_of_files(seen: Inspection, max_examples: int | None) -> list[Check]:
    return [
        _check(name, meaning, [(flaw.uri, flaw.detail) for flaw in seen.flaws if flaw.name == name], max_examples)
        for name, meaning in FILE_PROMISES.items()
    ]


def _check(name: str, meaning: str, found: list[tuple[str, str]], max_examples: int | None) -> Check:
    return Check(name=name, meaning=meaning, num_violations=len(found), examples=sorted(found)[:max_examples])


def _checks_of_rows(database: Database, max_examples: int | None) -> list[Check]:
    checks = []
    limit = "" if max_examples is None else f"limit {max_examples}"
    for promise in PROMISES:
        database.connection.execute(f"create or replace temp table violations as {promise.sql}")
        num_violations = _rows(database, "select count(*) from violations")[0][0]
        examples = _rows(database, f"select uri, detail from violations order by all {limit}") if num_violations else []
        checks.append(
            Check(name=promise.name, meaning=promise.meaning, num_violations=num_violations, examples=examples)
        )
    return checks


def _check_of_counts(database: Database, seen: Inspection, max_examples: int | None) -> Check:
    """Every commit's numbers against the rows of its part."""
    by_status = "select file, status, count(*) from images group by all"
    by_code = "select file, code, count(*) from errors group by all"
    statuses = {(file, status): n for file, status, n in _rows(database, by_status)}
    codes: dict[str, dict[str, int]] = {}
    for file, code, n in _rows(database, by_code):
        codes.setdefault(file, {})[code] = n
    num_tags = dict(_rows(database, "select file, count(*) from tags group by file"))
    num_images = dict(_rows(database, "select file, count(*) from images group by file"))
    found = []
    for part, commit in seen.commits.items():
        file = f"{PART_PREFIX}{part}{PART_SUFFIX}"
        counted = {
            "num_images": num_images.get(file, 0),
            "num_tagged": statuses.get((file, str(Status.TAGGED)), 0),
            "num_failed": statuses.get((file, str(Status.FAILED)), 0),
            "num_tags": num_tags.get(file, 0),
            "failed_by_code": codes.get(file, {}),
        }
        said = asdict(commit)
        differing = [f"{name} is {said[name]}, the rows say {n}" for name, n in counted.items() if said[name] != n]
        if differing:
            found.append((database.layout.part("images", part), "; ".join(differing)))
    return _check("counts", "the counts in a commit are those of its rows", found, max_examples)


def _check_of_sum(layout: Layout, index: Index, counts: list[int]) -> Check:
    found = [] if sum(counts) == index.num_images else [(layout.out, f"{sum(counts):,} of {index.num_images:,}")]
    return _check("sum", "tagged + failed + duplicate = images in the index", found, None)

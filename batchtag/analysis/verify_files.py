"""What every file of an OUT must keep: the index's digests, and each part against the footer of its images file.

The bytes of every file are read once, many files at a time; rows are the business of `promises`. A file that cannot be
read as what it should be is named here and then left out of the tables, because SQL over it would fail as a whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.analysis.database import Database
from batchtag.errors import StorageError
from batchtag.output.index import SCHEMA, Index, IndexPart
from batchtag.output.schemas import TABLES
from batchtag.output.types import Commit, part_id
from batchtag.output.writer import COMMIT_KEY
from batchtag.storage.retry import with_retries

READS_IN_FLIGHT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Flaw:
    """One file that does not keep one promise."""

    name: str
    uri: str
    detail: str


FILE_PROMISES = {
    "index": "the index parts are those that index.json describes, one after the other",
    "readable": "parts are Parquet with the columns of their table",
    "whole": "a committed part has its tags and errors",
    "orphan": "tags and errors have no part that is not committed, and no other files",
    "bundle": "parts are bundles of the index",
    "commit": "the footer of an images part tells which part it is and what it holds",
    "digest": "tags and errors are the very bytes that their commit names",
}


@dataclass(kw_only=True)
class Inspection:
    """What the files say, before rows are compared. `readable` has part ids by table; `commits` is by part id."""

    flaws: list[Flaw]
    index_parts: list[IndexPart] = field(default_factory=list)
    readable: dict[str, set[str]] = field(default_factory=lambda: {table: set() for table in TABLES})
    commits: dict[str, Commit] = field(default_factory=dict)


def inspect_files(database: Database, index: Index, *, is_live: bool) -> Inspection:
    """Look at every file under OUT. `is_live` allows parts that are not committed yet: those of bundles in flight."""
    seen = Inspection(
        flaws=[*_flaws_of_listing(database, index, is_live=is_live), *_flaws_of_sequence(database, index)]
    )
    committed = sorted(database.parts["images"])
    with ThreadPoolExecutor(READS_IN_FLIGHT, thread_name_prefix="verify") as pool:
        for listed, flaws in zip(
            index.parts, pool.map(partial(_inspect_index_part, database), index.parts), strict=True
        ):
            seen.flaws += flaws
            if all(flaw.name != "readable" for flaw in flaws):
                seen.index_parts.append(listed)
        for part, facts in zip(committed, pool.map(partial(_inspect_part, database), committed), strict=True):
            seen.flaws += facts.flaws
            if facts.commit is not None:
                seen.commits[part] = facts.commit
            for table in facts.readable:
                seen.readable[table].add(part)
    return seen


def _flaws_of_listing(database: Database, index: Index, *, is_live: bool) -> Iterator[Flaw]:
    committed = database.parts["images"]
    bundles = {bundle.id for bundle in index.bundles()}
    for part, file in committed.items():
        if part not in bundles:
            yield Flaw(name="bundle", uri=file.uri, detail="no bundle of the index has these positions")
    for table in TABLES:
        parts = database.parts[table]
        known = {file.uri for file in parts.values()}
        for file in database.listed[table].values():
            if file.uri not in known:
                yield Flaw(name="orphan", uri=file.uri, detail="is no part; move it away")
        for part in sorted(parts.keys() - committed.keys()) if not is_live else []:
            detail = "is not committed: a run was killed here; running the job again removes it"
            yield Flaw(name="orphan", uri=parts[part].uri, detail=detail)
        for part in sorted(committed.keys() - parts.keys()):
            yield Flaw(name="whole", uri=database.layout.part(table, part), detail="is not there")


def _flaws_of_sequence(database: Database, index: Index) -> Iterator[Flaw]:
    first = 0
    for part in index.parts:
        if part.first != first:
            uri = database.layout.index_part(part.name)
            yield Flaw(name="index", uri=uri, detail=f"begins at position {part.first:,}, and {first:,} comes next")
        first = part.first + part.num_images
    if first != index.num_images:
        detail = f"says {index.num_images:,} images, and its parts hold {first:,}"
        yield Flaw(name="index", uri=database.layout.index, detail=detail)


def _inspect_index_part(database: Database, part: IndexPart) -> list[Flaw]:
    uri = database.layout.index_part(part.name)
    try:
        data = _read(database, uri)
        num_rows = _parquet_of(data, SCHEMA).num_rows
    except (StorageError, _Unreadable) as error:
        return [Flaw(name="readable", uri=uri, detail=str(error))]
    flaws = []
    if hashlib.sha256(data).hexdigest() != part.sha256:
        flaws.append(Flaw(name="index", uri=uri, detail=f"its sha256 is not {part.sha256}, as index.json says"))
    if num_rows != part.num_images:
        flaws.append(Flaw(name="index", uri=uri, detail=f"has {num_rows:,} rows, index.json says {part.num_images:,}"))
    return flaws


@dataclass(kw_only=True)
class _PartFacts:
    flaws: list[Flaw] = field(default_factory=list)
    readable: set[str] = field(default_factory=set)
    commit: Commit | None = None


def _inspect_part(database: Database, part: str) -> _PartFacts:
    """The three files of one committed part."""
    facts = _PartFacts()
    digests: dict[str, str] = {}
    for table, schema in TABLES.items():
        file = database.parts[table].get(part)
        if file is None:
            continue
        try:
            data = _read(database, file.uri)
            digests[table] = hashlib.sha256(data).hexdigest()
            is_as_committed = facts.commit is not None and digests[table] == _digest_in(facts.commit, table)
            parquet = _parquet_of(data, schema, read_pages=not is_as_committed)
            if table == "images":
                facts.commit = _commit(parquet, part)
            facts.readable.add(table)
        except _NoCommit as error:
            facts.readable.add(table)
            facts.flaws.append(Flaw(name="commit", uri=file.uri, detail=str(error)))
        except (StorageError, _Unreadable) as error:
            facts.flaws.append(Flaw(name="readable", uri=file.uri, detail=str(error)))
    if facts.commit is not None:
        for table in digests.keys() - {"images"}:
            if digests[table] != (expected := _digest_in(facts.commit, table)):
                detail = f"its sha256 is not {expected}, as its commit says"
                facts.flaws.append(Flaw(name="digest", uri=database.layout.part(table, part), detail=detail))
    return facts


def _digest_in(commit: Commit, table: str) -> str:
    return {"tags": commit.tags_sha256, "errors": commit.errors_sha256}.get(table, "")


def _read(database: Database, uri: str) -> bytes:
    return with_retries(lambda: database.store.read(uri))[0].data


class _Unreadable(Exception):
    """A file that is not the Parquet it should be; its text says why."""


class _NoCommit(Exception):
    """An images part whose footer is not a commit of that part; its text says why."""


def _parquet_of(data: bytes, schema: pa.Schema, *, read_pages: bool = True) -> pq.FileMetaData:
    """The footer. Raises _Unreadable, also for other columns than `schema`, or a page that is damaged."""
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            there = file.schema_arrow.remove_metadata()
            if there != schema:
                raise _Unreadable(f"its columns are not those of the table: {_difference(there, schema)}")
            if read_pages:
                for _ in file.iter_batches():
                    pass
            return file.metadata
    except (pa.ArrowException, OSError) as error:
        raise _Unreadable(f"cannot be read: {' '.join(str(error).split())}") from error


def _difference(there: pa.Schema, schema: pa.Schema) -> str:
    found, expected = (set(map(str, columns)) for columns in (there, schema))
    if found == expected:
        return "they come in another order"
    return f"it has {sorted(found - expected)} and lacks {sorted(expected - found)}"


def _commit(footer: pq.FileMetaData, part: str) -> Commit:
    text = (footer.metadata or {}).get(COMMIT_KEY.encode())
    if text is None:
        raise _NoCommit(f"its footer has no {COMMIT_KEY}")
    try:
        commit = Commit(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise _NoCommit(f"the {COMMIT_KEY} in its footer is no commit: {error}") from error
    if commit.part != part or part_id(commit.first, commit.num_images) != part:
        raise _NoCommit(
            f"its footer is the commit of {commit.part}, {commit.num_images:,} images from {commit.first:,}"
        )
    return commit

"""The rules that the files of an output must follow, and the inspection that finds the files that break them.

Index parts are compared with index.json, and every file of a part with the commit, which is the footer of the part's
images file. Each file is read once, many files at a time. Rows are not compared here; `verify_rules` does that. A file
that is not valid Parquet is reported here and left out of the tables, because one such file makes all SQL over its
table fail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from batchtag.analysis.database import OutputFiles
from batchtag.analysis.verify_footer import InvalidCommitError, UnreadableError, parse_commit, read_metadata
from batchtag.errors import Code, StorageError
from batchtag.output.index import SCHEMA, Index, IndexPart
from batchtag.output.schemas import TABLES
from batchtag.output.types import Commit, CommittedFile
from batchtag.storage.retry import with_retries

READS_IN_FLIGHT = 16
"""Number of files that are read at the same time."""
FILE_RULES = {
    "index": "the index parts are those that index.json describes, in this order",
    "readable": "parts are Parquet files with the columns of their table",
    "whole": "a committed part has all the files that its commit names",
    "orphan": "tags and errors have no part that is not committed, and no other files",
    "bundle": "parts are bundles of the index",
    "commit": "the footer of an images file describes the part that it belongs to",
    "digest": "the files of a part are the exact bytes that its commit names",
}
"""All rules about files: name -> meaning, in the order in which they are reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A file that breaks the rule called `rule`."""

    rule: str
    uri: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PartInspection:
    """The files of one committed part. `num_rows` has, by table, the rows of each file that could be read.

    `commit` is None if the images file has no valid one.
    """

    violations: tuple[Violation, ...] = ()
    num_rows: dict[str, int] = field(default_factory=dict)
    commit: Commit | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInspection:
    """All files of an output, before rows are compared.

    `index_parts` are the readable ones. `parts` has every part with an images file, by part id.
    """

    violations: tuple[Violation, ...]
    index_parts: tuple[IndexPart, ...]
    parts: dict[str, PartInspection]

    def readable_parts(self, table: str) -> set[str]:
        """Return the ids of the parts whose images file and file of this table could be read."""
        return {part for part, inspected in self.parts.items() if {"images", table} <= inspected.num_rows.keys()}


def inspect_files(output: OutputFiles, index: Index, *, is_live: bool) -> FileInspection:
    """Read and check every file of an output. `is_live` allows parts that a running job has not committed yet."""
    committed = sorted(output.parts["images"])
    with ThreadPoolExecutor(READS_IN_FLIGHT, thread_name_prefix="verify") as pool:
        of_index = list(pool.map(partial(_inspect_index_part, output), index.parts))
        of_parts = list(pool.map(partial(_inspect_part, output), committed))
    violations = [*_check_listing(output, index, is_live=is_live), *_check_sequence(output, index)]
    violations += [violation for found in of_index for violation in found]
    violations += [violation for inspected in of_parts for violation in inspected.violations]
    readable_index = [
        part
        for part, found in zip(index.parts, of_index, strict=True)
        if all(violation.rule != "readable" for violation in found)
    ]
    return FileInspection(
        violations=tuple(violations),
        index_parts=tuple(readable_index),
        parts=dict(zip(committed, of_parts, strict=True)),
    )


def _check_listing(output: OutputFiles, index: Index, *, is_live: bool) -> Iterator[Violation]:
    """Yield the violations that the names of the files show."""
    committed = output.parts["images"]
    bundles = {bundle.id for bundle in index.bundles()}
    for part, file in committed.items():
        if part not in bundles:
            yield Violation(rule="bundle", uri=file.uri, detail="the index has no bundle with these positions")
    for table in TABLES:
        parts = output.parts[table]
        part_uris = {file.uri for file in parts.values()}
        for file in output.listed[table].values():
            if file.uri not in part_uris:
                yield Violation(rule="orphan", uri=file.uri, detail="is not a part; move it away")
        for part in sorted(parts.keys() - committed.keys()) if not is_live else []:
            detail = "is not committed: a run was killed while it wrote this part; run the job again to remove the file"
            yield Violation(rule="orphan", uri=parts[part].uri, detail=detail)
        for part in sorted(committed.keys() - parts.keys()):
            yield Violation(rule="whole", uri=output.layout.part(table, part), detail="does not exist")


def _check_sequence(output: OutputFiles, index: Index) -> Iterator[Violation]:
    """Yield the violations inside index.json: its parts must cover all positions, without a gap."""
    first = 0
    for part in index.parts:
        if part.first != first:
            uri = output.layout.index_part(part.name)
            yield Violation(rule="index", uri=uri, detail=f"begins at position {part.first:,}, expected {first:,}")
        first = part.first + part.num_images
    if first != index.num_images:
        detail = f"its num_images is {index.num_images:,}, but its parts have {first:,}"
        yield Violation(rule="index", uri=output.layout.index, detail=detail)


def _inspect_index_part(output: OutputFiles, part: IndexPart) -> list[Violation]:
    uri = output.layout.index_part(part.name)
    try:
        data = _read(output, uri)
        num_rows = read_metadata(data, schema=SCHEMA, read_pages=True).num_rows
    except (StorageError, UnreadableError) as error:
        return [Violation(rule="readable", uri=uri, detail=str(error))]
    violations = []
    if hashlib.sha256(data).hexdigest() != part.sha256:
        violations.append(
            Violation(rule="index", uri=uri, detail=f"its sha256 is not {part.sha256}, which index.json names")
        )
    if num_rows != part.num_images:
        detail = f"has {num_rows:,} rows, index.json names {part.num_images:,}"
        violations.append(Violation(rule="index", uri=uri, detail=detail))
    return violations


def _inspect_part(output: OutputFiles, part: str) -> PartInspection:
    """Inspect the images file of a committed part, and then every file that its footer names."""
    images = _inspect_images_file(output, part)
    committed = images.commit.files if images.commit is not None else {}
    violations, num_rows = [*images.violations], dict(images.num_rows)
    for table in dict.fromkeys((*TABLES, *committed)):
        if table == "images" or (table in TABLES and part not in output.parts[table]):
            continue  # `_check_listing` reports a missing file of these tables
        found, rows = _inspect_other_file(output, table, part, committed=committed.get(table))
        violations += found
        if rows is not None:
            num_rows[table] = rows
    return PartInspection(violations=tuple(violations), num_rows=num_rows, commit=images.commit)


def _inspect_images_file(output: OutputFiles, part: str) -> PartInspection:
    uri = output.parts["images"][part].uri
    try:
        metadata = read_metadata(_read(output, uri), schema=TABLES["images"], read_pages=True)
    except (StorageError, UnreadableError) as error:
        return PartInspection(violations=(Violation(rule="readable", uri=uri, detail=str(error)),))
    num_rows = {"images": metadata.num_rows}
    try:
        return PartInspection(num_rows=num_rows, commit=parse_commit(metadata, part))
    except InvalidCommitError as error:
        violation = Violation(rule="commit", uri=uri, detail=str(error))
        return PartInspection(violations=(violation,), num_rows=num_rows)


def _inspect_other_file(
    output: OutputFiles, table: str, part: str, *, committed: CommittedFile | None
) -> tuple[list[Violation], int | None]:
    """Return the violations of one file of a part, and its number of rows; None if it could not be read.

    `committed` describes the file as the commit does; None if the part has no valid commit. A table that this version
    does not know may have any columns.
    """
    uri = output.layout.part(table, part)
    violations = []
    try:
        data = _read(output, uri)
        has_digest = committed is not None and hashlib.sha256(data).hexdigest() == committed.sha256
        if committed is not None and not has_digest:
            detail = f"its sha256 is not {committed.sha256}, which its commit names"
            violations.append(Violation(rule="digest", uri=uri, detail=detail))
        # Bytes with the right digest were written by us: their pages need not be decoded.
        num_rows = read_metadata(data, schema=TABLES.get(table), read_pages=not has_digest).num_rows
    except StorageError as error:
        rule = "whole" if error.code is Code.NOT_FOUND else "readable"
        return [*violations, Violation(rule=rule, uri=uri, detail=str(error))], None
    except UnreadableError as error:
        return [*violations, Violation(rule="readable", uri=uri, detail=str(error))], None
    return violations, num_rows


def _read(output: OutputFiles, uri: str) -> bytes:
    return with_retries(lambda: output.store.read(uri))[0].data

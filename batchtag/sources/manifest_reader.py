"""A manifest's lines, whatever its format: (uri, etag, size in bytes).

A manifest may be one file or a folder of them, as Spark and Athena write it, and compressed. Of the columns only the
wanted ones are read, and from CSV as text: one that nobody needs must not stop a listing because its type changes in
line 3 million. Batches of some 10,000 lines bound the memory.
"""

from __future__ import annotations

import difflib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from batchtag.config.source import ManifestSource
from batchtag.errors import UsageError
from batchtag.sources.listing import named_object, objects_under
from batchtag.sources.retried_file import open_patiently
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo

Line = tuple[str, str, int]
"""URI as written ("" for a blank line), etag ("" if unknown), size in bytes (-1 if unknown)."""
Opener = Callable[[], BinaryIO]
Columns = list[list[Any]]
"""The wanted columns of a batch, in the order of `_wanted`."""

BATCH_LINES = 10_000
BUFFER_BYTES = 4 * 2**20
_CODECS: dict[str, Literal["gzip", "bz2", "zstd", "lz4"]] = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
_FORMATS = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl"}
_NOT_A_PART = re.compile(r"(?:^|/)[._][^/]*\Z")


def manifest_lines(spec: ManifestSource, *, store: Store) -> Iterator[list[Line]]:
    """The lines in order, batch by batch, repeated and blank ones too. Raises UsageError for what is not understood."""
    for found in _files(spec.uri, store=store):
        kind = _format(found.uri, spec)
        read = {"parquet": _from_parquet, "csv": _from_csv, "jsonl": _from_jsonl, "text": _from_text}[kind]
        try:
            for columns in read(partial(_opened, found, store=store), found.uri, spec):
                yield _as_lines(columns, spec)
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{found.uri}: cannot be read as {kind}: {reason}. See source.format") from error


def _files(uri: str, *, store: Store) -> Iterable[ObjectInfo]:
    alone = named_object(uri, store=store)
    if alone is not None:
        return [alone]
    pages = objects_under(uri, store=store)
    return (found for page in pages for found in page if not _NOT_A_PART.search(found.uri))


def _format(uri: str, spec: ManifestSource) -> str:
    if spec.format != "auto":
        return spec.format
    *_, before, last = f"..{uri.rsplit('/', 1)[-1].lower()}".split(".")
    return _FORMATS.get(before if last in _CODECS else last, "text")


def _opened(found: ObjectInfo, *, store: Store) -> BinaryIO:
    file = open_patiently(found, store=store, buffer_bytes=BUFFER_BYTES)
    codec = _CODECS.get(found.uri.lower().rsplit(".", 1)[-1])
    return file if codec is None else cast(BinaryIO, pa.CompressedInputStream(cast(io.IOBase, file), codec))


def _wanted(spec: ManifestSource) -> list[str]:
    return [name for name in (spec.column, spec.etag_column, spec.size_column) if name]


def _as_lines(columns: Columns, spec: ManifestSource) -> list[Line]:
    uris = columns[0]
    strange = next((uri for uri in uris if uri is not None and not isinstance(uri, str)), None)
    if strange is not None:
        raise ValueError(f"column {spec.column!r} holds {strange!r}, not a string")
    etags = columns[1] if spec.etag_column else itertools.repeat("", len(uris))
    sizes = columns[-1] if spec.size_column else itertools.repeat(-1, len(uris))
    return [
        (uri or "", str(etag or "").strip('"'), -1 if size in (None, "") else int(size))
        for uri, etag, size in zip(uris, etags, sizes, strict=True)
    ]


def _check_columns(names: Iterable[str], uri: str, spec: ManifestSource) -> None:
    there = list(names)
    for missing in _wanted(spec):
        if missing not in there:
            nearest = difflib.get_close_matches(missing, there, n=len(there) or 1, cutoff=0)
            raise UsageError(f"{uri}: has no column {missing!r}; it has {', '.join(map(repr, nearest)) or 'none'}")


def _from_parquet(opened: Opener, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    with opened() as file, pq.ParquetFile(file) as part:
        _check_columns(part.schema_arrow.names, uri, spec)
        for batch in part.iter_batches(batch_size=BATCH_LINES, columns=_wanted(spec)):
            yield [batch[name].to_pylist() for name in _wanted(spec)]


def _from_csv(opened: Opener, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    parsing = pa_csv.ParseOptions(newlines_in_values=True)
    with opened() as file, pa_csv.open_csv(file, parse_options=parsing) as head:
        _check_columns(head.schema.names, uri, spec)
    types = dict.fromkeys(_wanted(spec), pa.string())
    converting = pa_csv.ConvertOptions(include_columns=list(types), column_types=types)
    with opened() as file, pa_csv.open_csv(file, parse_options=parsing, convert_options=converting) as batches:
        for batch in batches:
            yield [batch[name].to_pylist() for name in _wanted(spec)]


def _from_jsonl(opened: Opener, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    is_first = True
    for number, lines in _numbered_lines(opened):
        records = [_record(line, number + i) for i, line in enumerate(lines) if line.strip()]
        if is_first and records:
            _check_columns(records[0], uri, spec)
            is_first = False
        yield [[record.get(name) for record in records] for name in _wanted(spec)]


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number:,} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"line {number:,} holds a {type(record).__name__}, not an object")
    return record


def _from_text(opened: Opener, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    if _wanted(spec) != ["uri"]:
        raise UsageError(f"{uri}: is plain text, one URI a line, and has no column {_wanted(spec)[-1]!r}")
    for _, lines in _numbered_lines(opened):
        yield [lines]


def _numbered_lines(opened: Opener) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line, from 1, and lines. Only what ends a line is taken off: a key may end in spaces."""
    with opened() as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n") as text:
        number = 1
        while lines := list(itertools.islice(text, BATCH_LINES)):
            yield number, [line.removesuffix("\n").removesuffix("\r") for line in lines]
            number += len(lines)

"""Read the lines of a manifest in any of its formats: (uri, etag, size in bytes).

A manifest is one file, or a folder of files as Spark and Athena write it, and may be compressed. Only the wanted
columns are read, from CSV as text: a column that is not needed must not stop a listing because its type changes in
line 3 million. Batches of about 10,000 lines bound the memory.
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
from batchtag.sources.listing import find_object, list_objects
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.ranged_file import open_with_retries

ManifestLine = tuple[str, str, int]
"""URI as written ("" for a blank line), etag ("" if unknown), size in bytes (-1 if unknown)."""
OpenFile = Callable[[], BinaryIO]
"""Opens one file of the manifest, unpacked, at its beginning."""
Columns = list[list[Any]]
"""The wanted columns of a batch, in the order of `_wanted_columns`."""

BATCH_LINES = 10_000
"""Number of lines in a batch; CSV comes in the batches of Arrow instead."""
BUFFER_BYTES = 4 * 2**20
"""Number of bytes that one request reads from a manifest."""
_CODECS: dict[str, Literal["gzip", "bz2", "zstd", "lz4"]] = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}
_FORMATS = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl"}
_HIDDEN_FILE = re.compile(r"(?:^|/)[._][^/]*\Z")


def read_manifest(spec: ManifestSource, *, store: Store) -> Iterator[list[ManifestLine]]:
    """Yield the lines in order, batch by batch, with repeated and blank lines.

    Raises UsageError, which names the file and the line where possible, for content that cannot be read.
    """
    for file in _list_files(spec.uri, store=store):
        kind = _choose_format(file.uri, spec)
        read = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl, "text": _read_text}[kind]
        try:
            for columns in read(partial(_open_file, file, store=store), file.uri, spec):
                yield _to_lines(columns, spec)
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{file.uri}: cannot be read as {kind}: {reason}. See source.format") from error


def _list_files(uri: str, *, store: Store) -> Iterable[ObjectInfo]:
    file = find_object(uri, store=store)
    if file is not None:
        return [file]
    pages = list_objects(uri, store=store)
    return (info for page in pages for info in page if not _HIDDEN_FILE.search(info.uri))


def _choose_format(uri: str, spec: ManifestSource) -> str:
    if spec.format != "auto":
        return spec.format
    *_, before, last = f"..{uri.rsplit('/', 1)[-1].lower()}".split(".")
    return _FORMATS.get(before if last in _CODECS else last, "text")


def _open_file(info: ObjectInfo, *, store: Store) -> BinaryIO:
    file = open_with_retries(info, store=store, buffer_bytes=BUFFER_BYTES)
    codec = _CODECS.get(info.uri.lower().rsplit(".", 1)[-1])
    return file if codec is None else cast(BinaryIO, pa.CompressedInputStream(cast(io.IOBase, file), codec))


def _wanted_columns(spec: ManifestSource) -> list[str]:
    return [name for name in (spec.column, spec.etag_column, spec.size_column) if name]


def _to_lines(columns: Columns, spec: ManifestSource) -> list[ManifestLine]:
    uris = columns[0]
    other_type = next((uri for uri in uris if uri is not None and not isinstance(uri, str)), None)
    if other_type is not None:
        raise ValueError(f"column {spec.column!r} holds {other_type!r}, not a string")
    etags = columns[1] if spec.etag_column else itertools.repeat("", len(uris))
    sizes = columns[-1] if spec.size_column else itertools.repeat(-1, len(uris))
    return [
        (uri or "", str(etag or "").strip('"'), -1 if size in (None, "") else int(size))
        for uri, etag, size in zip(uris, etags, sizes, strict=True)
    ]


def _check_columns(names: Iterable[str], uri: str, spec: ManifestSource) -> None:
    present = list(names)
    for missing in _wanted_columns(spec):
        if missing not in present:
            nearest = difflib.get_close_matches(missing, present, n=len(present) or 1, cutoff=0)
            raise UsageError(f"{uri}: has no column {missing!r}; it has {', '.join(map(repr, nearest)) or 'none'}")


def _read_parquet(open_file: OpenFile, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    with open_file() as file, pq.ParquetFile(file) as part:
        _check_columns(part.schema_arrow.names, uri, spec)
        for batch in part.iter_batches(batch_size=BATCH_LINES, columns=_wanted_columns(spec)):
            yield [batch[name].to_pylist() for name in _wanted_columns(spec)]


def _read_csv(open_file: OpenFile, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    parse_options = pa_csv.ParseOptions(newlines_in_values=True)
    with open_file() as file, pa_csv.open_csv(file, parse_options=parse_options) as head:
        _check_columns(head.schema.names, uri, spec)
    types = dict.fromkeys(_wanted_columns(spec), pa.string())
    convert_options = pa_csv.ConvertOptions(include_columns=list(types), column_types=types)
    with (
        open_file() as file,
        pa_csv.open_csv(file, parse_options=parse_options, convert_options=convert_options) as batches,
    ):
        for batch in batches:
            yield [batch[name].to_pylist() for name in _wanted_columns(spec)]


def _read_jsonl(open_file: OpenFile, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    is_first = True
    for number, lines in _numbered_lines(open_file):
        records = [_parse_record(line, number + i) for i, line in enumerate(lines) if line.strip()]
        if is_first and records:
            _check_columns(records[0], uri, spec)
            is_first = False
        yield [[record.get(name) for record in records] for name in _wanted_columns(spec)]


def _parse_record(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number:,} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"line {number:,} holds a {type(record).__name__}, not an object")
    return record


def _read_text(open_file: OpenFile, uri: str, spec: ManifestSource) -> Iterator[Columns]:
    if _wanted_columns(spec) != ["uri"]:
        raise UsageError(f"{uri}: is plain text with one URI per line, and has no column {_wanted_columns(spec)[-1]!r}")
    for _, lines in _numbered_lines(open_file):
        yield [lines]


def _numbered_lines(open_file: OpenFile) -> Iterator[tuple[int, list[str]]]:
    """Yield batches of lines, each with the number of its first line, from 1.

    Only the line ending is removed: a key may end in spaces.
    """
    with open_file() as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n") as text:
        number = 1
        while lines := list(itertools.islice(text, BATCH_LINES)):
            yield number, [line.removesuffix("\n").removesuffix("\r") for line in lines]
            number += len(lines)

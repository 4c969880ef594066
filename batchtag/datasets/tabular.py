"""Labels in a Parquet, CSV or JSONL table: a row for each box, or for each classified image.

A row of a box table with an image and nothing else says that the image is labelled and shows nothing. From CSV the
images and labels are read as text, so that a class `007` stays one.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from batchtag.config.dataset import TableData
from batchtag.datasets.base import Annotated, Box, Found, Problem, finite, first_of
from batchtag.datasets.files import TABLES, folder_of, read_file, text_of, within
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri

Columns = dict[str, list[Any]]
Row = Sequence[Any]
"""Image, label, and four sides or none, as the table has them."""


def read_table(spec: TableData) -> Found:
    """The images in the order of their first rows. Raises UsageError for a file or column that is not there."""
    uri = absolute_uri(spec.uri)
    columns = _columns(uri, spec)
    boxes = _box_columns(list(columns), spec, uri=uri)
    wanted = [spec.uri_column, spec.label_column, *boxes]
    _check_columns(wanted, list(columns), uri)
    rows = list(zip(*(columns[name] for name in wanted), strict=True))
    folder = absolute_uri(spec.images) if spec.images else folder_of(uri)
    images, problems = (_detected if boxes else _classified)(rows, uri=uri, folder=folder)
    task: Any = "detect" if boxes else "classify"
    return Found(task=task, images=first_of(images, spec.limit, task=task), problems=problems)


def _columns(uri: str, spec: TableData) -> Columns:
    """All columns by name; of Parquet's, the values of those that may be needed."""
    data = read_file(uri, spec.storage_options)
    try:
        match uri.rpartition(".")[2].lower():
            case "parquet" | "pq":
                return _parquet(data, spec)
            case "csv":
                return _csv(data, spec)
            case "jsonl" | "ndjson":
                return _jsonl(text_of(data, uri=uri))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{uri}: cannot be read as a table: {' '.join(str(error).split())}") from error
    raise UsageError(f"{uri}: its name must end in one of {', '.join(TABLES)}, which says how to read it")


def _parquet(data: bytes, spec: TableData) -> Columns:
    with pq.ParquetFile(pa.BufferReader(data)) as table:
        there = table.schema_arrow.names
        wanted = [name for name in there if name in (spec.uri_column, spec.label_column, *spec.box_columns)]
        return {name: [] for name in there} | cast(Columns, table.read(columns=wanted).to_pydict())


def _csv(data: bytes, spec: TableData) -> Columns:
    as_text = dict.fromkeys((spec.uri_column, spec.label_column, *spec.box_columns), pa.string())
    converting = pa_csv.ConvertOptions(column_types=as_text, strings_can_be_null=True, null_values=[""])
    parsing = pa_csv.ParseOptions(newlines_in_values=True)
    table = pa_csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=converting)
    return cast(Columns, table.to_pydict())


def _jsonl(text: str) -> Columns:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"line {number:,} holds a {type(record).__name__}, not an object")
            records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _box_columns(there: list[str], spec: TableData, *, uri: str) -> list[str]:
    """The four columns of boxes; none if the table has none of them and the job does not name them."""
    if not set(spec.box_columns).intersection(there) and "box_columns" not in spec.model_fields_set:
        return []
    return list(spec.box_columns)


def _check_columns(wanted: list[str], there: list[str], uri: str) -> None:
    mistakes = []
    for name in wanted:
        if name not in there:
            nearest = difflib.get_close_matches(name, there, n=len(there) or 1, cutoff=0)
            mistakes.append(f"{uri}: has no column {name!r}; it has {', '.join(map(repr, nearest)) or 'none'}")
    if mistakes:
        raise UsageError("\n".join(mistakes))


def _classified(rows: Sequence[Row], *, uri: str, folder: str) -> tuple[list[Annotated], list[Problem]]:
    images, problems = [], []
    for number, (name, label) in enumerate(rows, 1):
        if _is_nothing(name):
            problems.append(Problem(kind="unreadable", uri=uri, detail=f"row {number:,} names no image"))
            continue
        image = within(str(name), folder=folder)
        if _is_nothing(label):
            what = f"row {number:,} has no label for {name}"
            problems.append(Problem(kind="not_annotated", uri=uri, image=image, detail=what))
        else:
            images.append(Annotated(uri=image, names=[str(label)], source=uri))
    return images, problems


def _detected(rows: Sequence[Row], *, uri: str, folder: str) -> tuple[list[Annotated], list[Problem]]:
    names: dict[str, list[str]] = {}
    boxes: dict[str, list[Box]] = {}
    problems = []
    for number, (name, label, *sides) in enumerate(rows, 1):
        if _is_nothing(name):
            problems.append(Problem(kind="unreadable", uri=uri, detail=f"row {number:,} names no image"))
            continue
        image = within(str(name), folder=folder)
        names.setdefault(image, [])
        boxes.setdefault(image, [])
        if all(_is_nothing(value) for value in (label, *sides)):
            continue
        try:
            if _is_nothing(label):
                raise ValueError("a box without a label")
            x_min, y_min, x_max, y_max = finite(sides)
        except ValueError as error:
            what = f"row {number:,}, of {name}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image, detail=what))
            continue
        names[image].append(str(label))
        boxes[image].append((x_min, y_min, x_max, y_max))
    images = [Annotated(uri=one, names=names[one], boxes=boxes[one], source=uri) for one in names]
    return images, problems


def _is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, no text, or the NaN that pandas writes for both."""
    return value is None or value == "" or (isinstance(value, float) and value != value)

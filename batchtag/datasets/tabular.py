"""Labels in a Parquet, CSV or JSONL table: one row for each box, or for each classified image.

A row of a box table with only an image means that the image is annotated and shows no object. CSV columns of images and
labels are read as text, so that a class `007` keeps its zeros.
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
from batchtag.datasets.annotations import AnnotatedImage, Box, ParsedAnnotations, limit_images, parse_numbers
from batchtag.datasets.base import Problem
from batchtag.datasets.files import TABLE_EXTENSIONS, decode_text, parent_folder, read_file, resolve_name
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri
from batchtag.tasks import Task

Columns = dict[str, list[Any]]
Row = Sequence[Any]
"""Image, label, and the four sides of a box if the table has boxes, with the values of the table."""


def read_table(spec: TableData) -> ParsedAnnotations:
    """Read the images in the order of their first rows. Raises UsageError for a missing file or column."""
    uri = absolute_uri(spec.uri)
    columns = _read_columns(uri, spec)
    box_columns = _choose_box_columns(list(columns), spec)
    needed = [spec.uri_column, spec.label_column, *box_columns]
    _check_columns(needed, list(columns), uri)
    rows = list(zip(*(columns[name] for name in needed), strict=True))
    folder = absolute_uri(spec.images) if spec.images else parent_folder(uri)
    task: Task = "detect" if box_columns else "classify"
    images, problems = (_parse_box_rows if box_columns else _parse_class_rows)(rows, uri=uri, folder=folder)
    return ParsedAnnotations(task=task, images=limit_images(images, spec.limit, task=task), problems=problems)


def _read_columns(uri: str, spec: TableData) -> Columns:
    """Return all columns by name; a Parquet column that is not needed is empty."""
    data = read_file(uri, spec.storage_options)
    try:
        match uri.rpartition(".")[2].lower():
            case "parquet" | "pq":
                return _parse_parquet(data, spec)
            case "csv":
                return _parse_csv(data, spec)
            case "jsonl" | "ndjson":
                return _parse_jsonl(decode_text(data, uri=uri))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{uri}: cannot be read as a table: {' '.join(str(error).split())}") from error
    raise UsageError(f"{uri}: its name must end in one of {', '.join(TABLE_EXTENSIONS)}, which decides the format")


def _parse_parquet(data: bytes, spec: TableData) -> Columns:
    with pq.ParquetFile(pa.BufferReader(data)) as table:
        names = table.schema_arrow.names
        needed = [name for name in names if name in (spec.uri_column, spec.label_column, *spec.box_columns)]
        return {name: [] for name in names} | cast(Columns, table.read(columns=needed).to_pydict())


def _parse_csv(data: bytes, spec: TableData) -> Columns:
    as_text = dict.fromkeys((spec.uri_column, spec.label_column, *spec.box_columns), pa.string())
    convert_options = pa_csv.ConvertOptions(column_types=as_text, strings_can_be_null=True, null_values=[""])
    parse_options = pa_csv.ParseOptions(newlines_in_values=True)
    table = pa_csv.read_csv(io.BytesIO(data), parse_options=parse_options, convert_options=convert_options)
    return cast(Columns, table.to_pydict())


def _parse_jsonl(text: str) -> Columns:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"line {number:,} is a {type(record).__name__}, not an object")
            records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _choose_box_columns(column_names: list[str], spec: TableData) -> list[str]:
    """Return the four box columns; an empty list if the table has none of them and the job does not set them."""
    if not set(spec.box_columns).intersection(column_names) and "box_columns" not in spec.model_fields_set:
        return []
    return list(spec.box_columns)


def _check_columns(needed: list[str], column_names: list[str], uri: str) -> None:
    """Raise one UsageError for all missing columns; for each it lists the existing ones, most similar first."""
    mistakes = []
    for name in needed:
        if name not in column_names:
            nearest = difflib.get_close_matches(name, column_names, n=len(column_names) or 1, cutoff=0)
            mistakes.append(f"{uri}: has no column {name!r}; it has {', '.join(map(repr, nearest)) or 'none'}")
    if mistakes:
        raise UsageError("\n".join(mistakes))


def _parse_class_rows(rows: Sequence[Row], *, uri: str, folder: str) -> tuple[list[AnnotatedImage], list[Problem]]:
    images, problems = [], []
    for number, (name, label) in enumerate(rows, 1):
        if _is_empty(name):
            problems.append(Problem(kind="unreadable", uri=uri, detail=f"row {number:,} names no image"))
            continue
        image_uri = resolve_name(str(name), folder=folder)
        if _is_empty(label):
            detail = f"row {number:,} has no label for {name}"
            problems.append(Problem(kind="not_annotated", uri=uri, image=image_uri, detail=detail))
        else:
            images.append(AnnotatedImage(uri=image_uri, class_names=[str(label)], annotation_uri=uri))
    return images, problems


def _parse_box_rows(rows: Sequence[Row], *, uri: str, folder: str) -> tuple[list[AnnotatedImage], list[Problem]]:
    class_names: dict[str, list[str]] = {}
    boxes: dict[str, list[Box]] = {}
    problems = []
    for number, (name, label, *sides) in enumerate(rows, 1):
        if _is_empty(name):
            problems.append(Problem(kind="unreadable", uri=uri, detail=f"row {number:,} names no image"))
            continue
        image_uri = resolve_name(str(name), folder=folder)
        class_names.setdefault(image_uri, [])
        boxes.setdefault(image_uri, [])
        if all(_is_empty(value) for value in (label, *sides)):
            continue
        try:
            if _is_empty(label):
                raise ValueError("a box without a label")
            x_min, y_min, x_max, y_max = parse_numbers(sides)
        except ValueError as error:
            detail = f"row {number:,}, of {name}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=detail))
            continue
        class_names[image_uri].append(str(label))
        boxes[image_uri].append((x_min, y_min, x_max, y_max))
    images = [
        AnnotatedImage(uri=image_uri, class_names=names, boxes=boxes[image_uri], annotation_uri=uri)
        for image_uri, names in class_names.items()
    ]
    return images, problems


def _is_empty(value: Any) -> bool:
    """Return whether a cell is empty: null, no text, or the NaN that pandas writes for both."""
    return value is None or value == "" or (isinstance(value, float) and value != value)

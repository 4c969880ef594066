"""The schemas of the three tables, and their rows made from results.

Plain Parquet for any engine: no nested types, UTC microseconds, null where a value is unknown or has no meaning (the
width of an image that could not be decoded, the box of a class). Strings that repeat are dictionary-encoded in the file
and not in the schema, because Spark and Athena read plain strings everywhere. This is the only module that converts
boxes to pixels of the displayed image. A test compares the schemas with a checked-in text, because a change here is a
change for every reader.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batchtag.types import ImagePrediction, ImageResult, Status


def make_schema(*fields: pa.Field[Any]) -> pa.Schema:
    """Return the schema of fields of several types, which the type stubs of `pa.schema` do not allow."""
    return pa.schema(fields)


IMAGES = make_schema(
    pa.field("uri", pa.string(), nullable=False),
    pa.field("etag", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("last_modified", pa.timestamp("us", tz="UTC")),
    pa.field("content_hash", pa.string()),  # sha256 of the object's bytes, hex
    pa.field("width", pa.int32()),  # as displayed
    pa.field("height", pa.int32()),
    pa.field("format", pa.string()),
    pa.field("orientation", pa.int8()),  # EXIF, 1 to 8; already applied
    pa.field("status", pa.string(), nullable=False),  # tagged | failed | duplicate
    pa.field("dup_of", pa.string()),
    pa.field("num_tags", pa.int32(), nullable=False),
    pa.field("position", pa.int64(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("tagged_at", pa.timestamp("us", tz="UTC"), nullable=False),
)
TAGS = make_schema(
    pa.field("uri", pa.string(), nullable=False),
    pa.field("tag", pa.string(), nullable=False),
    pa.field("score", pa.float32(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),  # object | class
    pa.field("model", pa.string(), nullable=False),  # name@digest
    pa.field("label_id", pa.int32(), nullable=False),
    pa.field("rank", pa.int32(), nullable=False),  # from 1, by descending score, within image, model and parent
    pa.field("x_min", pa.float32()),  # pixels of the displayed image
    pa.field("y_min", pa.float32()),
    pa.field("x_max", pa.float32()),
    pa.field("y_max", pa.float32()),
    pa.field("parent", pa.string()),  # <model>#<rank> of the box whose crop this class describes
    pa.field("run_id", pa.string(), nullable=False),
)
ERRORS = make_schema(
    pa.field("uri", pa.string(), nullable=False),
    pa.field("stage", pa.string(), nullable=False),
    pa.field("code", pa.string(), nullable=False),
    pa.field("message", pa.string(), nullable=False),
    pa.field("retryable", pa.bool_(), nullable=False),
    pa.field("attempts", pa.int32(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
)
TABLES = {"images": IMAGES, "tags": TAGS, "errors": ERRORS}

_DICTIONARY_COLUMNS = ("uri", "parent", "format", "status", "run_id", "tag", "kind", "model", "stage", "code", "dup_of")
ROW_GROUP_ROWS = 128 * 1024
"""Rows in a row group. Parts rarely reach it; DuckDB's own groups have 122,880 rows, Spark prefers larger ones."""


def images_table(results: Sequence[ImageResult], *, run_id: str, tagged_at: datetime) -> pa.Table:
    """Return one row per result, in the order given, with the schema IMAGES."""

    def column(values: Iterable[object], name: str) -> Any:
        return pa.array(values, type=IMAGES.field(name).type)

    n = len(results)
    columns = {
        "uri": column((r.ref.uri for r in results), "uri"),
        "etag": column((r.etag or None for r in results), "etag"),
        "size_bytes": column((r.size_bytes if r.size_bytes >= 0 else None for r in results), "size_bytes"),
        "last_modified": column((r.last_modified for r in results), "last_modified"),
        "content_hash": column((r.content_hash or None for r in results), "content_hash"),
        "width": column((r.width or None for r in results), "width"),
        "height": column((r.height or None for r in results), "height"),
        "format": column((r.format or None for r in results), "format"),
        "orientation": column((r.orientation or None for r in results), "orientation"),
        "status": column((str(r.status) for r in results), "status"),
        "dup_of": pa.nulls(n, pa.string()),
        "num_tags": column((r.num_tags for r in results), "num_tags"),
        "position": column((r.ref.position for r in results), "position"),
        "run_id": column([run_id] * n, "run_id"),
        "tagged_at": column([tagged_at] * n, "tagged_at"),
    }
    return pa.table(columns, schema=IMAGES)


def tags_table(results: Sequence[ImageResult], *, run_id: str) -> pa.Table:
    """Return every tag of every tagged image as a row, with the schema TAGS, boxes in pixels of the displayed image.

    The table is built column by column: a small table for each image took 23 s where this takes 1 s (8,192 images with
    6 predictions of 20 tags). Boxes are clipped to the image, so that `0 <= x_min <= x_max <= width` holds in float32.
    """
    pairs = [
        (result, image_prediction)
        for result in results
        if result.status is Status.TAGGED
        for image_prediction in result.predictions
        if len(image_prediction.prediction.scores)
    ]
    if not pairs:
        return TAGS.empty_table()
    counts = np.array([len(p.prediction.scores) for _, p in pairs])
    pair_of_row = pa.array(np.repeat(np.arange(len(pairs)), counts))

    def repeat(values: Iterable[object], name: str) -> Any:
        return pa.array(values, type=TAGS.field(name).type).take(pair_of_row)

    predictions = [p.prediction for _, p in pairs]
    tags = [p.model_info.labels[i] for _, p in pairs for i in p.prediction.label_ids.tolist()]
    columns = {
        "uri": repeat((result.ref.uri for result, _ in pairs), "uri"),
        "tag": pa.array(tags, pa.string()),
        "score": pa.array(np.concatenate([prediction.scores for prediction in predictions]), pa.float32()),
        "kind": repeat((p.model_info.kind for _, p in pairs), "kind"),
        "model": repeat((p.model_info.id for _, p in pairs), "model"),
        "label_id": pa.array(np.concatenate([prediction.label_ids for prediction in predictions]), pa.int32()),
        "rank": pa.array(np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in counts])),
        **_corner_columns(pairs, counts),
        "parent": repeat((p.parent or None for _, p in pairs), "parent"),
        "run_id": pa.repeat(run_id, int(counts.sum())),
    }
    return pa.table(columns, schema=TAGS)


def _corner_columns(pairs: Sequence[tuple[ImageResult, ImagePrediction]], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return the four columns of corners in pixels of the displayed image; null for the rows of a class."""
    scales = np.array([p.scale_xy for _, p in pairs], np.float32)
    limits = np.array([(result.width, result.height) for result, _ in pairs], np.float32)
    is_class = [not len(p.prediction.boxes_xyxy) for _, p in pairs]
    boxes = [
        np.zeros((n, 4), np.float32) if without_boxes else p.prediction.boxes_xyxy
        for (_, p), n, without_boxes in zip(pairs, counts, is_class, strict=True)
    ]
    scaled = np.concatenate(boxes) * np.tile(scales.repeat(counts, axis=0), 2)
    clipped = np.clip(scaled, 0, np.tile(limits.repeat(counts, axis=0), 2)).astype(np.float32)
    mask = np.array(is_class).repeat(counts)
    names = ("x_min", "y_min", "x_max", "y_max")
    return {name: pa.array(side, pa.float32(), mask=mask) for name, side in zip(names, clipped.T, strict=True)}


def errors_table(results: Sequence[ImageResult], *, run_id: str) -> pa.Table:
    """Return one row per failed image, with the schema ERRORS."""
    rows = [
        {
            "uri": result.ref.uri,
            "stage": str(result.failure.stage),
            "code": str(result.failure.code),
            "message": result.failure.message,
            "retryable": result.failure.code.is_retryable,
            "attempts": result.failure.attempts,
            "run_id": run_id,
        }
        for result in results
        if result.failure is not None
    ]
    return pa.Table.from_pylist(rows, schema=ERRORS)


def parquet_bytes(table: pa.Table, *, metadata: dict[str, str] | None = None) -> bytes:
    """Return the table as a Parquet file: zstd, dictionaries for repeating columns, `metadata` in the footer."""
    if metadata:
        table = table.replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=[name for name in table.column_names if name in _DICTIONARY_COLUMNS],
        row_group_size=ROW_GROUP_ROWS,
        write_statistics=True,
    )
    return sink.getvalue()

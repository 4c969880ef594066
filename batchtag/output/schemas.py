"""The three tables, as Arrow: their schemas, and rows made from outcomes. Only here boxes move to the file's frame.

Plain Parquet for anybody's engine: no nested types, UTC microseconds, null where a value is not known or makes no sense
(the width of an image that could not be decoded, the box of a class). Strings that repeat are dictionary-encoded in
the file, not in the schema, because Spark and Athena read plain strings everywhere. The checked-in text of the schemas
is compared by a test: a change here is a change for every reader.
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


def schema_of(*fields: pa.Field[Any]) -> pa.Schema:
    """The schema of these fields; of several types, which the stubs of `pa.schema` do not expect."""
    return pa.schema(fields)


IMAGES = schema_of(
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
TAGS = schema_of(
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
ERRORS = schema_of(
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
"""Row group of a part. A part rarely reaches it; DuckDB's own groups have 122,880 rows, Spark wants them larger."""


def images_table(outcomes: Sequence[ImageResult], *, run_id: str, tagged_at: datetime) -> pa.Table:
    """One row per outcome, in the order given, with the schema IMAGES."""

    def column(values: Iterable[object], name: str) -> Any:
        return pa.array(values, type=IMAGES.field(name).type)

    n = len(outcomes)
    columns = {
        "uri": column((o.ref.uri for o in outcomes), "uri"),
        "etag": column((o.etag or None for o in outcomes), "etag"),
        "size_bytes": column((o.size_bytes if o.size_bytes >= 0 else None for o in outcomes), "size_bytes"),
        "last_modified": column((o.last_modified for o in outcomes), "last_modified"),
        "content_hash": column((o.content_hash or None for o in outcomes), "content_hash"),
        "width": column((o.width or None for o in outcomes), "width"),
        "height": column((o.height or None for o in outcomes), "height"),
        "format": column((o.format or None for o in outcomes), "format"),
        "orientation": column((o.orientation or None for o in outcomes), "orientation"),
        "status": column((str(o.status) for o in outcomes), "status"),
        "dup_of": pa.nulls(n, pa.string()),
        "num_tags": column((num_tags(o) for o in outcomes), "num_tags"),
        "position": column((o.ref.position for o in outcomes), "position"),
        "run_id": column([run_id] * n, "run_id"),
        "tagged_at": column([tagged_at] * n, "tagged_at"),
    }
    return pa.table(columns, schema=IMAGES)


def num_tags(outcome: ImageResult) -> int:
    """How many rows of `tags` an outcome gives; a failed image gives none, whatever some model had already said."""
    if outcome.status is not Status.TAGGED:
        return 0
    return sum(len(finding.prediction.scores) for finding in outcome.findings)


def tags_table(outcomes: Sequence[ImageResult], *, run_id: str) -> pa.Table:
    """Every finding of every tagged outcome as rows, with the schema TAGS, boxes in pixels of the displayed image.

    Column by column, as a table for each image took 23 s where this takes 1 (8,192 images with 6 findings of 20 tags).
    Boxes are cut to the image, so that `0 <= x_min <= x_max <= width` holds in the file's own float32.
    """
    found = [
        (outcome, finding)
        for outcome in outcomes
        if outcome.status is Status.TAGGED
        for finding in outcome.findings
        if len(finding.prediction.scores)
    ]
    if not found:
        return TAGS.empty_table()
    counts = np.array([len(finding.prediction.scores) for _, finding in found])
    finding_of_row = pa.array(np.repeat(np.arange(len(found)), counts))

    def spread(values: Iterable[object], name: str) -> Any:
        return pa.array(values, type=TAGS.field(name).type).take(finding_of_row)

    predictions = [finding.prediction for _, finding in found]
    columns = {
        "uri": spread((outcome.ref.uri for outcome, _ in found), "uri"),
        "tag": pa.array([f.info.labels[i] for _, f in found for i in f.prediction.label_ids.tolist()], pa.string()),
        "score": pa.array(np.concatenate([prediction.scores for prediction in predictions]), pa.float32()),
        "kind": spread((finding.info.kind for _, finding in found), "kind"),
        "model": spread((finding.info.id for _, finding in found), "model"),
        "label_id": pa.array(np.concatenate([prediction.label_ids for prediction in predictions]), pa.int32()),
        "rank": pa.array(np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in counts])),
        **_corners(found, counts),
        "parent": spread((finding.parent or None for _, finding in found), "parent"),
        "run_id": pa.repeat(run_id, int(counts.sum())),
    }
    return pa.table(columns, schema=TAGS)


def _corners(found: Sequence[tuple[ImageResult, ImagePrediction]], counts: NDArray[np.int64]) -> dict[str, Any]:
    """The four columns of corners, in pixels of the displayed image; null for the rows of a class."""
    scales = np.array([finding.scale_xy for _, finding in found], np.float32)
    limits = np.array([(outcome.width, outcome.height) for outcome, _ in found], np.float32)
    nowhere = [not len(finding.prediction.boxes_xyxy) for _, finding in found]
    boxes = [
        np.zeros((n, 4), np.float32) if is_class else finding.prediction.boxes_xyxy
        for (_, finding), n, is_class in zip(found, counts, nowhere, strict=True)
    ]
    moved = np.concatenate(boxes) * np.tile(scales.repeat(counts, axis=0), 2)
    cut = np.clip(moved, 0, np.tile(limits.repeat(counts, axis=0), 2)).astype(np.float32)
    mask = np.array(nowhere).repeat(counts)
    names = ("x_min", "y_min", "x_max", "y_max")
    return {name: pa.array(side, pa.float32(), mask=mask) for name, side in zip(names, cut.T, strict=True)}


def errors_table(outcomes: Sequence[ImageResult], *, run_id: str) -> pa.Table:
    """One row per failed outcome, with the schema ERRORS."""
    failed = [(o.ref.uri, o.failure) for o in outcomes if o.failure is not None]
    rows = [
        {
            "uri": uri,
            "stage": str(failure.stage),
            "code": str(failure.code),
            "message": failure.message,
            "retryable": failure.code.retryable,
            "attempts": failure.attempts,
            "run_id": run_id,
        }
        for uri, failure in failed
    ]
    return pa.Table.from_pylist(rows, schema=ERRORS)


def parquet_bytes(table: pa.Table, *, metadata: dict[str, str] | None = None) -> bytes:
    """The table as a Parquet file: zstd, dictionaries for columns that repeat, statistics, `metadata` in the footer."""
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

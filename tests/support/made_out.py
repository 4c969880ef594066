"""An output as a run writes it, made with the run's own index and writer, and methods that damage it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.errors import Code
from batchtag.output.index import freeze_index, read_bundle, read_index
from batchtag.output.layout import Layout
from batchtag.output.schemas import TABLES, parquet_bytes
from batchtag.output.types import Bundle
from batchtag.output.writer import COMMIT_KEY, PartWriter
from batchtag.storage import Store, open_store
from batchtag.storage.base import ObjectInfo
from batchtag.types import (
    Failure,
    ImagePrediction,
    ImageRef,
    ImageResult,
    InputResolution,
    ModelInfo,
    Prediction,
    Stage,
)

WHEN = datetime(2026, 1, 2, tzinfo=UTC)
BUNDLE = 4
RESOLUTION = InputResolution(mode="full")
DETECTOR = ModelInfo(name="det", kind="object", digest="0" * 12, labels=("", "bottle"), input_resolution=RESOLUTION)
CROPS = ModelInfo(
    name="brand", kind="class", digest="1" * 12, labels=("fizz", "flat"), input_resolution=RESOLUTION, crops_of="det"
)
WHOLE = ModelInfo(name="scene", kind="class", digest="2" * 12, labels=("shop", "home"), input_resolution=RESOLUTION)


def make_result(ref: ImageRef) -> ImageResult:
    """Every fifth image failed. Each other image has two bottles, the brand of the first one, and two scenes."""
    result = ImageResult(
        ref=ref, etag=ref.etag, size_bytes=ref.size_bytes, last_modified=ref.last_modified, width=640, height=480
    )
    if ref.position % 5 == 3:
        failure = Failure(stage=Stage.DECODE, code=Code.TRUNCATED, message="ends after 3 of 9 bytes")
        return replace(result, failure=failure, width=0, height=0)
    boxes = np.array([[0, 0, 640, 480], [1, 2, 3, 4]], np.float32)
    predictions = (
        ImagePrediction(model_info=DETECTOR, prediction=_prediction([0.9, 0.2], [1, 1], boxes)),
        ImagePrediction(model_info=CROPS, prediction=_prediction([0.8], [0]), parent=f"{DETECTOR.id}#1"),
        ImagePrediction(model_info=WHOLE, prediction=_prediction([0.7, 0.3], [1, 0])),
    )
    return replace(result, format="jpeg", orientation=1, predictions=predictions)


def _prediction(scores: list[float], labels: list[int], boxes: np.ndarray[Any, Any] | None = None) -> Prediction:
    boxes_xyxy = np.zeros((0, 4), np.float32) if boxes is None else boxes
    return Prediction(scores=np.array(scores, np.float32), label_ids=np.array(labels, np.int32), boxes_xyxy=boxes_xyxy)


@dataclass(frozen=True, kw_only=True)
class MadeOut:
    """An output with ten images in three bundles, all of them committed."""

    uri: str
    store: Store
    layout: Layout
    bundles: list[Bundle]

    @property
    def path(self) -> Path:
        return Path(self.uri)

    def part(self, table: str, number: int = 0) -> Path:
        return Path(self.layout.part(table, self.bundles[number].id))

    def edit(self, table: str, change: Callable[[pa.Table], pa.Table], *, number: int = 0, sign: bool = True) -> None:
        """Change the rows of a part. With `sign` the digests in its commit follow, so that only the rows are wrong."""
        path = self.part(table, number)
        rows = pq.read_table(path)
        path.write_bytes(parquet_bytes(change(rows)))
        if sign:
            self.edit_commit(number=number)

    def edit_rows(self, table: str, change: Callable[[list[dict[str, Any]]], Any], *, number: int = 0) -> None:
        """Change the rows of a part as dictionaries, in place; the digests in its commit follow."""

        def change_table(rows: pa.Table) -> pa.Table:
            content = rows.to_pylist()
            change(content)
            return pa.Table.from_pylist(content, schema=rows.schema)

        self.edit(table, change_table, number=number)

    def edit_commit(self, *, number: int = 0, files: dict[str, dict[str, Any]] | None = None, **facts: Any) -> None:
        """Write `facts` into a commit, with the true digests of its files. `files` adds or changes entries there."""
        commit = self.read_commit(number)
        for table in ("tags", "errors"):
            commit["files"][table]["sha256"] = hashlib.sha256(self.part(table, number).read_bytes()).hexdigest()
        for table, entry in (files or {}).items():
            commit["files"][table] = commit["files"].get(table, {}) | entry
        self.write_commit(commit | facts, number=number)

    def read_commit(self, number: int = 0) -> dict[str, Any]:
        metadata = pq.read_schema(self.part("images", number)).metadata or {}
        commit: dict[str, Any] = json.loads(metadata[COMMIT_KEY.encode()])
        return commit

    def write_commit(self, commit: dict[str, Any], *, number: int = 0) -> None:
        """Replace the footer of an images file."""
        images = pq.read_table(self.part("images", number)).cast(TABLES["images"])
        metadata = {COMMIT_KEY: json.dumps(commit)}
        self.part("images", number).write_bytes(parquet_bytes(images, metadata=metadata))


def make_out(uri: str, *, num_images: int = 10, commit: bool = True, options: dict[str, Any] | None = None) -> MadeOut:
    """Write an output of the images `s3://photos/00.jpg` and so on, in bundles of four.

    Without `commit` the images are listed, and none is tagged yet.
    """
    store, layout = open_store(uri, options), Layout(uri)
    listing = [ObjectInfo(uri=f"s3://photos/{i:02}.jpg", etag=f"e{i}", size_bytes=9) for i in range(num_images)]
    pages = [listing] if listing else []
    freeze_index(pages, store=store, layout=layout, bundle_size=lambda _: BUNDLE, limit=None, listed_at=WHEN)
    index = read_index(store=store, layout=layout)
    assert index is not None
    writer = PartWriter(store=store, layout=layout, run_id="r1", check_lease=lambda: None)
    for bundle in index.bundles() if commit else []:
        refs = read_bundle(bundle, store=store, layout=layout)
        writer.write(bundle, [make_result(ref) for ref in refs], tagged_at=WHEN)
    return MadeOut(uri=uri, store=store, layout=layout, bundles=list(index.bundles()))

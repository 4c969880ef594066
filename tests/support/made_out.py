"""An OUT as a run leaves it, made with the run's own index and writer, and ways to break it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
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


def outcome_of(ref: ImageRef) -> ImageResult:
    """Every fifth image failed; each other one has two bottles, the brand of the first, and two scenes."""
    outcome = ImageResult.of(ref)
    if ref.position % 5 == 3:
        outcome.failure = Failure(stage=Stage.DECODE, code=Code.TRUNCATED, message="ends after 3 of 9 bytes")
        return outcome
    outcome.width, outcome.height, outcome.format, outcome.orientation = 640, 480, "jpeg", 1
    boxes = np.array([[0, 0, 640, 480], [1, 2, 3, 4]], np.float32)
    outcome.findings = [
        ImagePrediction(info=DETECTOR, prediction=_prediction([0.9, 0.2], [1, 1], boxes)),
        ImagePrediction(info=CROPS, prediction=_prediction([0.8], [0]), parent=f"{DETECTOR.id}#1"),
        ImagePrediction(info=WHOLE, prediction=_prediction([0.7, 0.3], [1, 0])),
    ]
    return outcome


def _prediction(scores: list[float], labels: list[int], boxes: np.ndarray[Any, Any] | None = None) -> Prediction:
    boxes_xyxy = np.zeros((0, 4), np.float32) if boxes is None else boxes
    return Prediction(scores=np.array(scores, np.float32), label_ids=np.array(labels, np.int32), boxes_xyxy=boxes_xyxy)


@dataclass(frozen=True, kw_only=True)
class MadeOut:
    """Ten images in three bundles, all committed."""

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
        """Change a part's rows; `sign` makes the commit's digests agree again, so that only the rows are wrong."""
        path = self.part(table, number)
        rows = pq.read_table(path)
        path.write_bytes(parquet_bytes(change(rows)))
        if sign:
            self.edit_commit(number=number)

    def edit_rows(self, table: str, change: Callable[[list[dict[str, Any]]], Any], *, number: int = 0) -> None:
        """The same on rows as dictionaries, changed in place."""

        def changed(rows: pa.Table) -> pa.Table:
            content = rows.to_pylist()
            change(content)
            return pa.Table.from_pylist(content, schema=rows.schema)

        self.edit(table, changed, number=number)

    def edit_commit(self, *, number: int = 0, **facts: Any) -> None:
        """Write `facts` into a commit, and the digests that are true."""
        images = pq.read_table(self.part("images", number))
        commit = json.loads((images.schema.metadata or {})[COMMIT_KEY.encode()])
        for table in ("tags", "errors"):
            commit[f"{table}_sha256"] = hashlib.sha256(self.part(table, number).read_bytes()).hexdigest()
        metadata = {COMMIT_KEY: json.dumps(commit | facts)}
        self.part("images", number).write_bytes(parquet_bytes(images.cast(TABLES["images"]), metadata=metadata))


def make_out(uri: str, *, num_images: int = 10, commit: bool = True, options: dict[str, Any] | None = None) -> MadeOut:
    """Images `s3://photos/00.jpg` and so on, in bundles of four; not `commit`: listed, and nothing tagged yet."""
    store, layout = open_store(uri, options), Layout(uri)
    listing = [ObjectInfo(uri=f"s3://photos/{i:02}.jpg", etag=f"e{i}", size_bytes=9) for i in range(num_images)]
    pages = [listing] if listing else []
    freeze_index(pages, store=store, layout=layout, bundle_size=lambda _: BUNDLE, limit=None, listed_at=WHEN)
    index = read_index(store=store, layout=layout)
    assert index is not None
    writer = PartWriter(store=store, layout=layout, run_id="r1", may_write=lambda: None)
    for bundle in index.bundles() if commit else []:
        refs = read_bundle(bundle, store=store, layout=layout)
        writer.write(bundle, [outcome_of(ref) for ref in refs], tagged_at=WHEN)
    return MadeOut(uri=uri, store=store, layout=layout, bundles=list(index.bundles()))

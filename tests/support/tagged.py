"""An OUT whose tags the test says: what a run with such models would have left, without running one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchtag.output.index import freeze_index, read_bundle, read_index
from batchtag.output.layout import Layout
from batchtag.output.writer import PartWriter
from batchtag.storage import open_store
from batchtag.storage.base import ObjectInfo
from batchtag.types import Failure, ImagePrediction, ImageRef, ImageResult, ModelInfo, Prediction
from tests.support.samples import NOON

Box = tuple[str, float, tuple[float, float, float, float]]
Class = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One image of the run: its size, and by model what was said of it, best first; or why it failed."""

    size: tuple[int, int] = (64, 48)
    content: bytes = b""
    boxes: Mapping[str, Sequence[Box]] | None = None
    classes: Mapping[str, Sequence[Class]] | None = None
    of_crops: Sequence[Class] = ()
    """What the model "crops" said of the crop of the first box."""
    failure: Failure | None = None


def tagged_out(out: str, seen: Mapping[str, Seen], infos: Sequence[ModelInfo]) -> str:
    """Write the tables and the job; gives `out`. A card of crops is called "crops"."""
    store, layout = open_store(out), Layout(out)
    listing = [ObjectInfo(uri=uri, etag="e", size_bytes=9) for uri in seen]
    freeze_index([listing], store=store, layout=layout, bundle_size=lambda _: 1_000, limit=None, listed_at=NOON)
    index = read_index(store=store, layout=layout)
    assert index is not None
    writer = PartWriter(store=store, layout=layout, run_id="r1", may_write=lambda: None)
    by_name = {info.name: info for info in infos}
    for bundle in index.bundles():
        refs = read_bundle(bundle, store=store, layout=layout)
        writer.write(bundle, [_outcome(ref, seen[ref.uri], by_name) for ref in refs], tagged_at=NOON)
    store.write(layout.job, json.dumps({"version": 1, "models": [_described(info) for info in infos]}).encode())
    return out


def _described(info: ModelInfo) -> dict[str, object]:
    on = {"crops_of": info.crops_of, "min_score": 0.5} if info.crops_of else "image"
    return {"id": info.id, "kind": info.kind, "spec": {"on": on, "score_floor": 0.05, "max_tags": 0}}


def _outcome(ref: ImageRef, seen: Seen, infos: Mapping[str, ModelInfo]) -> ImageResult:
    outcome = ImageResult.of(ref)
    if seen.failure is not None:
        outcome.failure = seen.failure
        return outcome
    outcome.width, outcome.height = seen.size
    outcome.format, outcome.orientation = "jpeg", 1
    outcome.content_hash = hashlib.sha256(seen.content or ref.uri.encode()).hexdigest()
    for name, boxes in (seen.boxes or {}).items():
        outcome.findings.append(
            _finding(infos[name], [(tag, score) for tag, score, _ in boxes], [b for *_, b in boxes])
        )
    for name, classes in (seen.classes or {}).items():
        outcome.findings.append(_finding(infos[name], classes))
    if seen.of_crops:
        info = infos["crops"]
        outcome.findings.append(_finding(info, seen.of_crops, parent=f"{infos[info.crops_of].id}#1"))
    return outcome


def _finding(
    info: ModelInfo,
    said: Sequence[Class],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    *,
    parent: str = "",
) -> ImagePrediction:
    prediction = Prediction(
        scores=np.array([score for _, score in said], np.float32),
        label_ids=np.array([info.labels.index(tag) for tag, _ in said], np.int32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
    )
    return ImagePrediction(info=info, prediction=prediction, parent=parent)

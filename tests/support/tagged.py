"""An output whose tags a test chooses, as a run with such models would have written it, made without running one."""

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
"""Tag, score, and corners (x_min, y_min, x_max, y_max) in pixels of the displayed image."""
Class = tuple[str, float]
"""Tag and score."""


@dataclass(frozen=True, kw_only=True)
class TaggedImage:
    """One image of the run: its size, and the tags of each model, best first; or the reason why it failed.

    `boxes` and `classes` are by name of the model. `crop_classes` are the tags that the model "crops" gave to the crop
    of the first box.
    """

    size: tuple[int, int] = (64, 48)
    content: bytes = b""
    boxes: Mapping[str, Sequence[Box]] | None = None
    classes: Mapping[str, Sequence[Class]] | None = None
    crop_classes: Sequence[Class] = ()
    failure: Failure | None = None


def write_tagged_output(out: str, images: Mapping[str, TaggedImage], infos: Sequence[ModelInfo]) -> str:
    """Write the tables and the job of these images, by URI; returns `out`. A model of crops must be named "crops"."""
    store, layout = open_store(out), Layout(out)
    listing = [ObjectInfo(uri=uri, etag="e", size_bytes=9) for uri in images]
    freeze_index([listing], store=store, layout=layout, bundle_size=lambda _: 1_000, limit=None, listed_at=NOON)
    index = read_index(store=store, layout=layout)
    assert index is not None
    writer = PartWriter(store=store, layout=layout, run_id="r1", check_lease=lambda: None)
    infos_by_name = {info.name: info for info in infos}
    for bundle in index.bundles():
        refs = read_bundle(bundle, store=store, layout=layout)
        writer.write(bundle, [_result(ref, images[ref.uri], infos_by_name) for ref in refs], tagged_at=NOON)
    store.write(layout.job, json.dumps({"version": 1, "models": [_job_model(info) for info in infos]}).encode())
    return out


def _job_model(info: ModelInfo) -> dict[str, object]:
    on = {"crops_of": info.crops_of, "min_score": 0.5} if info.crops_of else "image"
    return {"id": info.id, "kind": info.kind, "spec": {"on": on, "score_floor": 0.05, "max_tags": 0}}


def _result(ref: ImageRef, image: TaggedImage, infos: Mapping[str, ModelInfo]) -> ImageResult:
    if image.failure is not None:
        return ImageResult(ref=ref, etag=ref.etag, size_bytes=ref.size_bytes, last_modified=None, failure=image.failure)
    predictions = [
        _image_prediction(infos[name], [(tag, score) for tag, score, _ in boxes], [corners for *_, corners in boxes])
        for name, boxes in (image.boxes or {}).items()
    ]
    predictions += [_image_prediction(infos[name], classes) for name, classes in (image.classes or {}).items()]
    if image.crop_classes:
        info = infos["crops"]
        predictions.append(_image_prediction(info, image.crop_classes, parent=f"{infos[info.crops_of].id}#1"))
    return ImageResult(
        ref=ref,
        etag=ref.etag,
        size_bytes=ref.size_bytes,
        last_modified=None,
        content_hash=hashlib.sha256(image.content or ref.uri.encode()).hexdigest(),
        width=image.size[0],
        height=image.size[1],
        format="jpeg",
        orientation=1,
        predictions=tuple(predictions),
    )


def _image_prediction(
    info: ModelInfo,
    tags: Sequence[Class],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    *,
    parent: str = "",
) -> ImagePrediction:
    prediction = Prediction(
        scores=np.array([score for _, score in tags], np.float32),
        label_ids=np.array([info.labels.index(tag) for tag, _ in tags], np.int32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
    )
    return ImagePrediction(model_info=info, prediction=prediction, parent=parent)

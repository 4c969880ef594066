"""Three ways to look at the same decoded images: torchvision as everybody calls it, the same under AMP, and ours.

Each begins with uint8 arrays in the host's memory and ends with plain numbers there, so that what a user waits for is
measured. torchvision's detectors get batches of one padded shape, as ours do, or neighbours would change their boxes;
each of its calls takes the faster of one image and eight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import get_model_weights

from batchtag.models.acceleration.runtime import Precision, Runtime
from batchtag.models.classifier import Classifier
from batchtag.models.detector import Detector, batches_of_one_shape, padded_shape
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures
from batchtag.models.torchvision.zoo import task_of
from batchtag.types import InputResolution, ModelInfo
from benchmarks.speed import seeded

Pixels = NDArray[np.uint8]
Found = NDArray[np.float32]
"""Of one image, (N, 6): label, score, corners; a classifier's has its best label alone, with corners 0."""
PLAIN_BATCHES = (1, 8)
SURE, PIXELS, SCORES = 0.3, 0.5, 0.01
_FLOOR, _MOST = 0.05, 100


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network of the table, on the CPU in float32. `preprocessing` is a classifier's, None for a detector."""

    builder: str
    network: Any
    preprocessing: Preprocessing | None
    num_labels: int


def subject(builder: str, images: Sequence[Path], *, weights: Path | None) -> Subject:
    """With published weights from a folder (files as torchvision names them), or seeded ones that act like trained."""
    published = get_model_weights(builder).DEFAULT
    task = task_of(builder)
    preprocessing = Preprocessing.of_preset(published.transforms()) if task == "classify" else None
    if weights is not None:
        network = _published(builder, weights)
    else:
        with torch.inference_mode():
            make = seeded.detector if task == "detect" else lambda *given: seeded.classifier(*given)[0]
            network = make(builder, images)
    return Subject(
        builder=builder,
        network=network,
        preprocessing=preprocessing,
        num_labels=len(published.meta["categories"]),
    )


def _published(builder: str, folder: Path) -> nn.Module:
    member = get_model_weights(builder).DEFAULT
    file = folder / member.url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise SystemExit(f"{file} is not there; it is published at {member.url}")
    member.get_state_dict = lambda **_: torch.load(file, map_location="cpu", weights_only=True)
    try:
        return architectures.build(builder, {"weights": member})
    finally:
        del member.get_state_dict


def ours(one: Subject, *, device: str, precision: Precision) -> Any:
    """A Detector or Classifier, as a worker has it."""
    is_detector = one.preprocessing is None
    labels = tuple(f"label {i}" if i or not is_detector else "" for i in range(one.num_labels))
    input_resolution = InputResolution(mode="cover", shorter_px=1)
    info = ModelInfo(
        name=one.builder,
        kind="object" if is_detector else "class",
        digest="",
        labels=labels,
        input_resolution=input_resolution,
    )
    runtime = Runtime(device=device, precision=precision)
    network = copy.deepcopy(one.network).to("cpu")
    if one.preprocessing is None:
        network.roi_heads.score_thresh, network.roi_heads.detections_per_img = _FLOOR, _MOST
        return Detector(network, info=info, runtime=runtime)
    return Classifier(network, info=info, preprocessing=one.preprocessing, score_floor=0.0, max_tags=1, runtime=runtime)


def look_our_way(model: Any, images: Sequence[Pixels]) -> list[Found]:
    """Every image through `predict`."""
    given = model.predict(images)
    return [
        np.concatenate(
            [one.label_ids[:, None], one.scores[:, None], one.boxes_xyxy if len(one.boxes_xyxy) else _no_box(one)], 1
        ).astype(np.float32)
        for one in given
    ]


def _no_box(one: Any) -> NDArray[np.float32]:
    return np.zeros((len(one.scores), 4), np.float32)


def torchvision_way(
    one: Subject, network: nn.Module, *, device: str, batch_size: int, amp: torch.dtype | None
) -> Callable[[Sequence[Pixels]], list[Found]]:
    """`network` is on the device in float32. With `amp`, under autocast to it."""
    look = _detect if one.preprocessing is None else _classify

    def call(images: Sequence[Pixels]) -> list[Found]:
        context = torch.autocast(torch.device(device).type, dtype=amp) if amp else nullcontext()
        with torch.inference_mode(), context:
            return look(one, network, images, device, batch_size)

    return call


def _detect(one: Subject, network: Any, images: Sequence[Pixels], device: str, batch_size: int) -> list[Found]:
    shapes = [padded_shape(network.transform, *image.shape[:2]) for image in images]
    found: dict[int, Found] = {}
    for batch in batches_of_one_shape(shapes, batch_size):
        tensors = [torch.from_numpy(images[i].copy()).permute(2, 0, 1).to(device) / 255 for i in batch]
        for i, said in zip(batch, network(tensors), strict=True):
            columns = [said["labels"][:, None].float(), said["scores"][:, None].float(), said["boxes"].float()]
            rows = torch.cat(columns, dim=1).cpu().numpy()
            found[i] = rows[rows[:, 1] >= _FLOOR][:_MOST]
    return [found[i] for i in range(len(images))]


def _classify(one: Subject, network: Any, images: Sequence[Pixels], device: str, batch_size: int) -> list[Found]:
    transforms = get_model_weights(one.builder).DEFAULT.transforms()
    found: list[Found] = []
    for first in range(0, len(images), batch_size):
        some = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images[first : first + batch_size]]
        batch = torch.stack([transforms(image.to(device)) for image in some])
        best = network(batch).float().softmax(dim=1).max(dim=1)
        label_ids, scores = best.indices.cpu().numpy(), best.values.cpu().numpy()
        found += [
            np.array([[label, score, 0, 0, 0, 0]], np.float32) for label, score in zip(label_ids, scores, strict=True)
        ]
    return found


def agreement(reference: Sequence[Found], other: Sequence[Found]) -> float:
    """The share of what either is sure of that the other says too: boxes of one label within 0.5 px and 0.01 in score.

    A classifier's best label counts whatever its score; 1.0 where there is nothing to compare.
    """
    matched: list[bool] = []
    for one, another in zip(reference, other, strict=True):
        for mine, theirs in ((one, another), (another, one)):
            sure = mine[(mine[:, 1] >= SURE) | (mine[:, 5] == 0)]
            is_box = sure[:, None, 5] > 0
            near = (
                (sure[:, None, 0] == theirs[None, :, 0])
                & (~is_box | (np.abs(sure[:, None, 1] - theirs[None, :, 1]) <= SCORES))
                & (np.abs(sure[:, None, 2:] - theirs[None, :, 2:]) <= PIXELS).all(axis=2)
            )
            matched += near.any(axis=1).tolist()
    return sum(matched) / len(matched) if matched else 1.0

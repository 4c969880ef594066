"""Three ways to run a network on decoded images: torchvision as it is usually called, the same under AMP, and batchtag.

Each starts with uint8 arrays in the host's memory and ends with numbers there, which is what a user waits for.
torchvision's detectors get batches of one padded shape, as batchtag's do, because images of other shapes in a batch
would change the boxes. Of torchvision's calls with one image and with eight, the faster one counts.
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
from batchtag.models.torchvision.zoo import resolve_task
from batchtag.types import InputResolution, ModelInfo
from benchmarks.speed import seeded

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]
"""The predictions of one image, (N, 6): label, score, corners in pixels. A classifier has one row, with corners 0."""
PLAIN_BATCHES = (1, 8)
SURE_SCORE, MAX_BOX_DIFFERENCE_PX, MAX_SCORE_DIFFERENCE = 0.3, 0.5, 0.01
_SCORE_FLOOR, _MAX_BOXES = 0.05, 100


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network of the table, on the CPU in float32. `preprocessing` is a classifier's, None for a detector."""

    builder: str
    network: Any
    preprocessing: Preprocessing | None
    num_labels: int


def make_subject(builder: str, images: Sequence[Path], *, weights: Path | None) -> Subject:
    """Make a network with published weights from a folder (files as torchvision names them), or with seeded weights."""
    published = get_model_weights(builder).DEFAULT
    task = resolve_task(builder)
    preprocessing = Preprocessing.from_preset(published.transforms()) if task == "classify" else None
    if weights is not None:
        network = _load_published(builder, weights)
    else:
        with torch.inference_mode():
            if task == "detect":
                network = seeded.make_detector(builder, images)
            else:
                network, _ = seeded.make_classifier(builder, images)
    return Subject(
        builder=builder,
        network=network,
        preprocessing=preprocessing,
        num_labels=len(published.meta["categories"]),
    )


def _load_published(builder: str, folder: Path) -> nn.Module:
    member = get_model_weights(builder).DEFAULT
    file = folder / member.url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; download it from {member.url}")
    member.get_state_dict = lambda **_: torch.load(file, map_location="cpu", weights_only=True)
    try:
        return architectures.build_network(builder, {"weights": member})
    finally:
        del member.get_state_dict


def make_batchtag_model(subject: Subject, *, device: str, precision: Precision) -> Any:
    """Make the Detector or Classifier that a worker would load."""
    is_detector = subject.preprocessing is None
    labels = tuple(f"label {i}" if i or not is_detector else "" for i in range(subject.num_labels))
    input_resolution = InputResolution(mode="cover", shorter_px=1)
    info = ModelInfo(
        name=subject.builder,
        kind="object" if is_detector else "class",
        digest="",
        labels=labels,
        input_resolution=input_resolution,
    )
    runtime = Runtime(device=device, precision=precision)
    network = copy.deepcopy(subject.network).to("cpu")
    if subject.preprocessing is None:
        network.roi_heads.score_thresh, network.roi_heads.detections_per_img = _SCORE_FLOOR, _MAX_BOXES
        return Detector(network, info=info, runtime=runtime)
    return Classifier(
        network, info=info, preprocessing=subject.preprocessing, score_floor=0.0, max_tags=1, runtime=runtime
    )


def predict_with_batchtag(model: Any, images: Sequence[Pixels]) -> list[Rows]:
    """Return the rows of every image from a model of batchtag."""
    predictions = model.predict(images)
    return [
        np.concatenate(
            [prediction.label_ids[:, None], prediction.scores[:, None], _boxes_or_zeros(prediction)], 1
        ).astype(np.float32)
        for prediction in predictions
    ]


def _boxes_or_zeros(prediction: Any) -> NDArray[np.float32]:
    boxes: NDArray[np.float32] = prediction.boxes_xyxy
    return boxes if len(boxes) else np.zeros((len(prediction.scores), 4), np.float32)


def make_torchvision_call(
    subject: Subject, network: nn.Module, *, device: str, batch_size: int, amp: torch.dtype | None
) -> Callable[[Sequence[Pixels]], list[Rows]]:
    """Return a function that runs `network`, which is on the device in float32. With `amp`, under autocast to it."""
    run = _detect if subject.preprocessing is None else _classify

    def call(images: Sequence[Pixels]) -> list[Rows]:
        context = torch.autocast(torch.device(device).type, dtype=amp) if amp else nullcontext()
        with torch.inference_mode(), context:
            return run(subject, network, images, device, batch_size)

    return call


def _detect(subject: Subject, network: Any, images: Sequence[Pixels], device: str, batch_size: int) -> list[Rows]:
    shapes = [padded_shape(network.transform, *image.shape[:2]) for image in images]
    rows_by_image: dict[int, Rows] = {}
    for batch in batches_of_one_shape(shapes, batch_size):
        tensors = [torch.from_numpy(images[i].copy()).permute(2, 0, 1).to(device) / 255 for i in batch]
        for i, detections in zip(batch, network(tensors), strict=True):
            labels, scores = detections["labels"][:, None].float(), detections["scores"][:, None].float()
            columns = [labels, scores, detections["boxes"].float()]
            rows = torch.cat(columns, dim=1).cpu().numpy()
            rows_by_image[i] = rows[rows[:, 1] >= _SCORE_FLOOR][:_MAX_BOXES]
    return [rows_by_image[i] for i in range(len(images))]


def _classify(subject: Subject, network: Any, images: Sequence[Pixels], device: str, batch_size: int) -> list[Rows]:
    transforms = get_model_weights(subject.builder).DEFAULT.transforms()
    rows: list[Rows] = []
    for first in range(0, len(images), batch_size):
        tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images[first : first + batch_size]]
        batch = torch.stack([transforms(image.to(device)) for image in tensors])
        best = network(batch).float().softmax(dim=1).max(dim=1)
        label_ids, scores = best.indices.cpu().numpy(), best.values.cpu().numpy()
        rows += [
            np.array([[label, score, 0, 0, 0, 0]], np.float32) for label, score in zip(label_ids, scores, strict=True)
        ]
    return rows


def compute_agreement(reference: Sequence[Rows], other: Sequence[Rows]) -> float:
    """Return the share of sure rows of either that the other has too: the same label, within 0.5 px and 0.01 in score.

    The best label of a classifier counts whatever its score is. The result is 1.0 if there is nothing to compare.
    """
    matched: list[bool] = []
    for first, second in zip(reference, other, strict=True):
        for rows, others in ((first, second), (second, first)):
            sure = rows[(rows[:, 1] >= SURE_SCORE) | (rows[:, 5] == 0)]
            is_box = sure[:, None, 5] > 0
            near = (
                (sure[:, None, 0] == others[None, :, 0])
                & (~is_box | (np.abs(sure[:, None, 1] - others[None, :, 1]) <= MAX_SCORE_DIFFERENCE))
                & (np.abs(sure[:, None, 2:] - others[None, :, 2:]) <= MAX_BOX_DIFFERENCE_PX).all(axis=2)
            )
            matched += near.any(axis=1).tolist()
    return sum(matched) / len(matched) if matched else 1.0

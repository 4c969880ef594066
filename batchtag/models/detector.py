"""A torchvision detection network as a model: batches that do not let neighbours show, and predictions from its boxes.

torchvision pads a batch to its largest member, and anchors, padding and borders follow: the same photo gives other
boxes beside a panorama. So a forward pass holds only images that come to the same padded shape alone; photos of one
camera share it, and an odd one runs by itself; on CPUs each does, as many at a time as there are threads. The network
does its own resizing, on the device. Its memory layout is the default: channels-last gained nothing on two cores (12.8
and 13.1 s for two photos, resnet50_fpn_v2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.models.folding import fold_batch_norms, has_batch_norms
from batchtag.models.openvino import compile_detector
from batchtag.models.parts import replace_parts
from batchtag.models.pixels import to_device
from batchtag.models.runtime import Lanes, Runtime
from batchtag.records import ModelCard, Prediction

_HEADS_WITHOUT_BOXES = (
    *("mask_roi_pool", "mask_head", "mask_predictor"),
    *("keypoint_roi_pool", "keypoint_head", "keypoint_predictor"),
)


class Detector:
    """Runs in the worker. The network becomes this detector's own: parts of it may be replaced."""

    def __init__(self, network: nn.Module, *, card: ModelCard, runtime: Runtime) -> None:
        self.card = card
        alone = runtime.has_lanes or runtime.engine == "openvino"
        self.batch_size = 1 if alone else runtime.batch_size or (16 if runtime.on_gpu else 4)
        self._device = torch.device(runtime.device)
        self._network: Any = only_boxes(network).eval()
        if runtime.engine == "openvino":
            compile_detector(self._network, threads=runtime.threads)
        elif has_batch_norms(self._network):
            replace_parts(self._network, fold_batch_norms)
        self._network.to(self._device)
        self._lanes = Lanes(runtime)
        self._is_tag = np.array([label != "" for label in card.labels])

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        shapes = [padded_shape(self._network.transform, *image.shape[:2]) for image in images]
        batches = list(batches_of_one_shape(shapes, self.batch_size))
        predictions = self._lanes.map(lambda batch: self._forward([images[i] for i in batch]), batches)
        answers = {
            i: one for batch, some in zip(batches, predictions, strict=True) for i, one in zip(batch, some, strict=True)
        }
        return [answers[i] for i in range(len(images))]

    def _forward(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        with torch.inference_mode():
            found = self._network([to_device(image, self._device).float().div(255) for image in images])
            rows = torch.cat([_rows(one) for one in found]).cpu().numpy()
        ends = np.cumsum([len(one["scores"]) for one in found])
        return [
            self._prediction(part, width=image.shape[1], height=image.shape[0])
            for part, image in zip(np.split(rows, ends[:-1]), images, strict=True)
        ]

    def _prediction(self, rows: NDArray[np.float32], *, width: int, height: int) -> Prediction:
        rows = rows[self._is_tag[rows[:, 5].astype(np.int32)]]
        return Prediction(
            scores=rows[:, 4].copy(),
            label_ids=rows[:, 5].astype(np.int32),
            # torchvision clips in the resized frame, and scaling back can end a rounding error outside.
            boxes_xyxy=np.clip(rows[:, :4], 0, np.array([width, height, width, height], np.float32)),
        )


def _rows(found: dict[str, Tensor]) -> Tensor:
    """(N, 6) float32: box, score, label. One tensor, so that a batch comes back from the device in one transfer."""
    return torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None].float()], dim=1)


def padded_shape(transform: Any, height: int, width: int) -> tuple[int, int]:
    """What torchvision's GeneralizedRCNNTransform makes of an image that is alone in its batch: (height, width).

    Raises ValueError for a picture so elongated that its shorter side vanishes when the longer one fits.
    """
    if transform.fixed_size is not None:
        fixed_width, fixed_height = transform.fixed_size
        return fixed_height, fixed_width
    scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
    resized = int(height * scale), int(width * scale)
    if 0 in resized:
        raise ValueError(
            f"a picture of {width} x {height} pixels is too elongated for this detector: "
            f"with its longer side at {transform.max_size} pixels nothing is left of the shorter"
        )
    stride = transform.size_divisible
    return math.ceil(resized[0] / stride) * stride, math.ceil(resized[1] / stride) * stride


def batches_of_one_shape(shapes: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """The positions of `shapes`, each once, in lists of at most `batch_size` whose shapes are equal."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(i)
    for positions in by_shape.values():
        for start in range(0, len(positions), batch_size):
            yield positions[start : start + batch_size]


def only_boxes(network: nn.Module) -> nn.Module:
    """The network without its mask and keypoint heads, whose answers we would throw away."""
    heads: Any = getattr(network, "roi_heads", None)
    for name in _HEADS_WITHOUT_BOXES:
        if heads is not None and hasattr(heads, name):
            setattr(heads, name, None)
    return network

"""A torchvision detection network as a model: batches that do not let neighbours show, and predictions from its boxes.

torchvision pads a batch to its largest member, and anchors, padding and borders follow: the same photo gives other
boxes beside a panorama. So a forward pass holds only images that come to the same padded shape alone; photos of one
camera share it, and an odd one runs by itself; on CPUs each does, as many at a time as there are threads. The network
does its own resizing, on the device. Its memory layout is the default: channels-last gained nothing on two cores (12.8
and 13.1 s for two photos, resnet50_fpn_v2). On a GPU, and in 16 bits wherever that is, Faster R-CNN goes `rcnn`'s way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.models.acceleration.batched_rcnn import RcnnInBatches, goes_in_batches
from batchtag.models.acceleration.bn_folding import fold_batch_norms, has_batch_norms
from batchtag.models.acceleration.half_precision import check_for_overflow, number_type, reduce_detector
from batchtag.models.acceleration.openvino import compile_detector
from batchtag.models.acceleration.runtime import Lanes, Runtime
from batchtag.models.acceleration.submodules import replace_parts, settle_scales
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.types import ModelInfo, Prediction

_HEADS_WITHOUT_BOXES = (
    *("mask_roi_pool", "mask_head", "mask_predictor"),
    *("keypoint_roi_pool", "keypoint_head", "keypoint_predictor"),
)


class Detector:
    """Runs in the worker. The network becomes this detector's own: parts of it may be replaced."""

    def __init__(self, network: nn.Module, *, info: ModelInfo, runtime: Runtime) -> None:
        self.info = info
        alone = runtime.has_lanes or runtime.engine == "openvino"
        self.batch_size = 1 if alone else runtime.batch_size or (16 if runtime.on_gpu else 4)
        self._device = torch.device(runtime.device)
        self._dtype = number_type(runtime)
        self._network: Any = only_boxes(network).eval()
        settle_scales(self._network)
        self._in_batches: RcnnInBatches | None = None
        if goes_in_batches(self._network) and (runtime.on_gpu or self._dtype is not torch.float32):
            self._in_batches = RcnnInBatches(self._network)
        if runtime.engine == "openvino":
            compile_detector(self._network, threads=runtime.threads)
        elif has_batch_norms(self._network):
            replace_parts(self._network, fold_batch_norms)
        self._network.to(self._device)
        if self._dtype is not torch.float32:
            # Torchvision's own code takes the dtype of its coordinates from the features.
            reduce_detector(self._network, self._dtype, features=self._dtype if self._in_batches else torch.float32)
        self._lanes = Lanes(runtime)
        self._uploads = Uploads(self._device) if runtime.on_gpu else None
        self._is_tag = np.array([label != "" for label in info.labels])

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        shapes = [padded_shape(self._network.transform, *image.shape[:2]) for image in images]
        batches = list(batches_of_one_shape(shapes, self.batch_size))
        some = [[images[i] for i in batch] for batch in batches]
        if self._uploads:
            found = [self._look(group) for group in self._uploads.ahead(some)]
        else:
            found = self._lanes.map(lambda arrays: self._look([to_device(one, self._device) for one in arrays]), some)
        answers = {
            i: self._prediction(rows, width=images[i].shape[1], height=images[i].shape[0])
            for batch, each in zip(batches, found, strict=True)
            for i, rows in zip(batch, each, strict=True)
        }
        return [answers[i] for i in range(len(images))]

    def _look(self, images: Sequence[Tensor]) -> list[NDArray[np.float32]]:
        """For each image (3, H, W) uint8 its boxes (N, 6) float32: corners, score, label; best first."""
        with torch.inference_mode():
            if self._in_batches:
                rows = self._in_batches(images)
            else:
                found = self._network([image.float().div(255) for image in images])
                rows = torch.cat([_rows(one, number) for number, one in enumerate(found)])
            said = rows.cpu().numpy()
        if self._dtype is torch.float16:
            check_for_overflow(self._network)
        ends = np.searchsorted(said[:, 6], np.arange(1, len(images)))
        return [part[:, :6] for part in np.split(said, ends)]

    def _prediction(self, rows: NDArray[np.float32], *, width: int, height: int) -> Prediction:
        rows = rows[self._is_tag[rows[:, 5].astype(np.int32)]]
        return Prediction(
            scores=rows[:, 4].copy(),
            label_ids=rows[:, 5].astype(np.int32),
            # torchvision clips in the resized frame, and scaling back can end a rounding error outside.
            boxes_xyxy=np.clip(rows[:, :4], 0, np.array([width, height, width, height], np.float32)),
        )


def _rows(found: dict[str, Tensor], number: int) -> Tensor:
    """(N, 7) float32, as `RcnnInBatches` gives them: one tensor, so that a batch comes back in one transfer."""
    scores = found["scores"][:, None]
    return torch.cat([found["boxes"], scores, found["labels"][:, None].float(), torch.full_like(scores, number)], dim=1)


def padded_shape(transform: Any, height: int, width: int) -> tuple[int, int]:
    """What torchvision's GeneralizedRCNNTransform makes of an image that is alone in its batch: (height, width).

    Raises ValueError for an image so elongated that its shorter side vanishes when the longer one fits.
    """
    stride = transform.size_divisible
    if transform.fixed_size is not None:
        fixed_width, fixed_height = transform.fixed_size
        return math.ceil(fixed_height / stride) * stride, math.ceil(fixed_width / stride) * stride
    scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
    resized = int(height * scale), int(width * scale)
    if 0 in resized:
        raise ValueError(
            f"an image of {width} x {height} pixels is too elongated for this detector: "
            f"with its longer side at {transform.max_size} pixels nothing is left of the shorter"
        )
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

"""A torchvision detection network as a model: batches in which no image influences another, and predictions from boxes.

torchvision pads a batch to its largest image, and anchors, padding and borders depend on that: the same photo gets
other boxes beside a panorama. So a forward pass holds only images that have the same padded shape alone. Photos of one
camera share it, and an image of another shape is computed by itself. On CPUs each image is computed by itself, as many
at a time as there are inference threads. The network resizes images itself, on the device. Its memory layout is the
default: channels-last gained nothing on two cores (12.8 and 13.1 s for two photos, resnet50_fpn_v2). On GPUs, and in 16
bits everywhere, Faster R-CNN is computed by `batched_rcnn`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.models.acceleration.batched_rcnn import BatchedRcnn, supports_batched_rcnn
from batchtag.models.acceleration.bn_folding import fold_batch_norms, has_batch_norms
from batchtag.models.acceleration.half_precision import check_for_overflow, reduce_detector, resolve_dtype
from batchtag.models.acceleration.openvino import compile_detector
from batchtag.models.acceleration.runtime import InferenceThreads, Runtime
from batchtag.models.acceleration.submodules import infer_roi_scales, replace_parts
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.types import ModelInfo, Prediction

_GPU_BATCH, _CPU_BATCH = 16, 4
"""Largest numbers of images of a forward pass, unless the job says otherwise. No GPU has measured the first."""
_UNUSED_HEADS = (
    *("mask_roi_pool", "mask_head", "mask_predictor"),
    *("keypoint_roi_pool", "keypoint_head", "keypoint_predictor"),
)
"""Attributes of torchvision's RoI heads whose answers are not boxes."""


class Detector:
    """A detection network that predicts boxes. Runs in the worker.

    The network becomes the detector's own: its parts may be replaced.
    """

    def __init__(self, network: nn.Module, *, info: ModelInfo, runtime: Runtime) -> None:
        self.info = info
        computes_alone = runtime.has_inference_threads or runtime.engine == "openvino"
        default_batch = _GPU_BATCH if runtime.is_on_gpu else _CPU_BATCH
        self.batch_size = 1 if computes_alone else runtime.batch_size or default_batch
        self._device = torch.device(runtime.device)
        self._dtype = resolve_dtype(runtime)
        self._network: Any = keep_only_box_heads(network).eval()
        # 1. On the CPU, in float32: let the network infer its scales, and replace its parts by faster ones.
        infer_roi_scales(self._network)
        self._batched_rcnn: BatchedRcnn | None = None
        if supports_batched_rcnn(self._network) and (runtime.is_on_gpu or self._dtype is not torch.float32):
            self._batched_rcnn = BatchedRcnn(self._network)
        if runtime.engine == "openvino":
            compile_detector(self._network, threads=runtime.threads)
        elif has_batch_norms(self._network):
            replace_parts(self._network, fold_batch_norms)
        # 2. On the device: convert the parts to 16 bits, where the job asks for that.
        self._network.to(self._device)
        if self._dtype is not torch.float32:
            # torchvision's own code takes the dtype of its coordinates from the features, so these stay in float32.
            features = self._dtype if self._batched_rcnn else torch.float32
            reduce_detector(self._network, self._dtype, features=features)
        self._threads = InferenceThreads(runtime)
        self._uploads = Uploads(self._device) if runtime.is_on_gpu else None
        self._is_tag = np.array([label != "" for label in info.labels])

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the prediction of each image (H, W, 3) uint8 RGB, in the order given; see `models.Model`.

        Raises ValueError for an array that is not an image, or that is too elongated for the network.
        """
        shapes = [padded_shape(self._network.transform, *image.shape[:2]) for image in images]
        batches = list(batches_of_one_shape(shapes, self.batch_size))
        arrays = [[images[i] for i in batch] for batch in batches]
        if self._uploads:
            rows_by_batch = [self._predict_batch(tensors) for tensors in self._uploads.upload_ahead(arrays)]
        else:
            rows_by_batch = self._threads.map(self._predict_arrays, arrays)
        predictions = {
            i: self._make_prediction(rows, width=images[i].shape[1], height=images[i].shape[0])
            for batch, batch_rows in zip(batches, rows_by_batch, strict=True)
            for i, rows in zip(batch, batch_rows, strict=True)
        }
        return [predictions[i] for i in range(len(images))]

    def _predict_arrays(self, arrays: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return self._predict_batch([to_device(array, self._device) for array in arrays])

    def _predict_batch(self, images: Sequence[Tensor]) -> list[NDArray[np.float32]]:
        """Return the boxes of each image (3, H, W) uint8: (N, 6) float32 corners, score, label id; best first."""
        with torch.inference_mode():
            if self._batched_rcnn:
                rows = self._batched_rcnn(images)
            else:
                outputs = self._network([image.float().div(255) for image in images])
                rows = torch.cat([_rows_of_image(output, position) for position, output in enumerate(outputs)])
            all_rows = rows.cpu().numpy()
        if self._dtype is torch.float16:
            check_for_overflow(self._network)
        ends = np.searchsorted(all_rows[:, 6], np.arange(1, len(images)))
        return [image_rows[:, :6] for image_rows in np.split(all_rows, ends)]

    def _make_prediction(self, rows: NDArray[np.float32], *, width: int, height: int) -> Prediction:
        rows = rows[self._is_tag[rows[:, 5].astype(np.int32)]]
        return Prediction(
            scores=rows[:, 4].copy(),
            label_ids=rows[:, 5].astype(np.int32),
            # torchvision clips in the resized frame; scaling back can end a rounding error outside.
            boxes_xyxy=np.clip(rows[:, :4], 0, np.array([width, height, width, height], np.float32)),
        )


def _rows_of_image(output: dict[str, Tensor], position: int) -> Tensor:
    """Return one image's boxes as the rows that `BatchedRcnn` gives, so that a batch is copied back in one transfer."""
    scores = output["scores"][:, None]
    labels, positions = output["labels"][:, None].float(), torch.full_like(scores, position)
    return torch.cat([output["boxes"], scores, labels, positions], dim=1)


def padded_shape(transform: Any, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that torchvision's GeneralizedRCNNTransform makes of an image alone in its batch.

    Raises ValueError for an image so elongated that no pixel of its shorter side remains when the longer one fits.
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
            f"with its longer side at {transform.max_size} pixels, no pixel of the shorter side remains"
        )
    return math.ceil(resized[0] / stride) * stride, math.ceil(resized[1] / stride) * stride


def batches_of_one_shape(shapes: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the positions of `shapes`, each once, in lists of at most `batch_size` positions of equal shape."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(i)
    for positions in by_shape.values():
        for start in range(0, len(positions), batch_size):
            yield positions[start : start + batch_size]


def keep_only_box_heads(network: nn.Module) -> nn.Module:
    """Remove the mask and keypoint heads of a network, in place, because their answers are not used; return it."""
    heads: Any = getattr(network, "roi_heads", None)
    for name in _UNUSED_HEADS:
        if heads is not None and hasattr(heads, name):
            setattr(heads, name, None)
    return network

"""A torchvision classification network as a model: the published preprocessing, softmax, and the best few labels.

Images are resized and cropped one by one as uint8 tensors, on the device, by torchvision's v2 transforms. These resize
bytes as bytes. The v1 transforms of the published presets do it in floats, four times slower, and differ by at most 1
of 255. Everything after that is one batch. Whole images and the crops of a detector take the same way. On CPUs batches
are small, and as many are computed at a time as there are inference threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.models.acceleration.bn_folding import fold_batch_norms
from batchtag.models.acceleration.half_precision import check_for_overflow, reduce_classifier, resolve_dtype
from batchtag.models.acceleration.openvino import compile_part
from batchtag.models.acceleration.runtime import InferenceThreads, Runtime
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.models.preprocessing import Preprocessing
from batchtag.types import ModelInfo, Prediction

_GPU_BATCH = 128
"""Largest number of images of a forward pass on a GPU, unless the job says otherwise. No GPU has measured it."""
_CPU_BATCH = 4
"""The same on CPUs. One core of an EPYC, OpenVINO, mobilenet_v3_large: 6.7 ms for an image alone, 5.5 ms in fours,
6.5 ms in sixteens; resnet50 takes 79 ms in all of them."""


class _FromPixels(nn.Module):
    """A network with the normalization before it: (N, 3, S, S) uint8 to logits (N, labels) float32."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing

    def forward(self, crops: Tensor) -> Tensor:
        logits: Tensor = self.network(self._preprocessing.normalize(crops)).float()
        return logits


class Classifier:
    """A classification network that predicts labels. Runs in the worker.

    The network becomes the classifier's own: its parts may be replaced. Batches have at most `batch_size` images.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        info: ModelInfo,
        preprocessing: Preprocessing,
        score_floor: float,
        max_tags: int,
        runtime: Runtime,
    ) -> None:
        self.info = info
        self.batch_size = runtime.batch_size or (_GPU_BATCH if runtime.is_on_gpu else _CPU_BATCH)
        self._device = torch.device(runtime.device)
        # 32 photos through resnet50 on two cores: 1.9 s channels-last, 2.4 s in the default layout.
        self._network: nn.Module = _FromPixels(network.eval().to(memory_format=torch.channels_last), preprocessing)
        # 1. On the CPU, in float32: compile the network, or fold its batch norms.
        if runtime.engine == "openvino":
            self._network = _compile(self._network, preprocessing, runtime, max_batch=self.batch_size)
        else:
            fold_batch_norms(self._network, preprocessing.random_crops(1))
        # 2. On the device: convert it to 16 bits, where the job asks for that.
        self._network.to(self._device)
        self._dtype = resolve_dtype(runtime)
        if self._dtype is not torch.float32:
            example = preprocessing.normalize(preprocessing.random_crops(2).to(self._device))
            reduced = reduce_classifier(network, example, self._dtype, num_labels=len(info.labels))
            self._network = _FromPixels(reduced, preprocessing)
        self._uploads = Uploads(self._device) if runtime.is_on_gpu else None
        self._threads = InferenceThreads(runtime)
        self._preprocessing = preprocessing
        self._score_floor = score_floor
        self._num_best = min(max_tags, len(info.labels))
        self._is_not_a_tag = torch.tensor([label == "" for label in info.labels], device=self._device)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return the prediction of each image (H, W, 3) uint8 RGB, in the order given; see `models.Model`.

        Raises ValueError for an array that is not an image.
        """
        batches = [images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size)]
        if self._uploads:
            # All batches are started before the first result is waited for.
            results = [
                self._find_best(self._preprocessing.crop_each_centre(tensors))
                for tensors in self._uploads.upload_ahead(batches)
            ]
            predictions = [self._make_predictions(result) for result in results]
        else:
            predictions = self._threads.map(self._predict_batch, batches)
        return [prediction for batch in predictions for prediction in batch]

    def _predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        crops = [self._preprocessing.crop_centre(to_device(image, self._device)) for image in images]
        return self._make_predictions(self._find_best(torch.stack(crops)))

    def _find_best(self, crops: Tensor) -> Tensor:
        """Return scores and label ids of (N, 3, S, S) uint8, best first, as (2, N, labels) float64 on the device."""
        with torch.inference_mode():
            scores = self._network(crops).softmax(dim=1).masked_fill(self._is_not_a_tag, -1.0)
            return torch.stack([values.double() for values in scores.topk(self._num_best, dim=1)])

    def _make_predictions(self, best: Tensor) -> list[Prediction]:
        scores, label_ids = best.cpu().numpy()
        if self._dtype is torch.float16:
            check_for_overflow(self._network)
        scores, label_ids = scores.astype(np.float32), label_ids.astype(np.int32)
        return [self._make_prediction(image_scores, ids) for image_scores, ids in zip(scores, label_ids, strict=True)]

    def _make_prediction(self, scores: NDArray[np.float32], label_ids: NDArray[np.int32]) -> Prediction:
        is_given = (scores >= self._score_floor) & (scores >= 0)
        return Prediction(scores=scores[is_given], label_ids=label_ids[is_given])


def _compile(network: nn.Module, preprocessing: Preprocessing, runtime: Runtime, *, max_batch: int) -> nn.Module:
    """Compile a network from pixels to logits with OpenVINO, for batches of at most `max_batch` images."""
    batch_size = min(max_batch, _CPU_BATCH)
    return compile_part(
        network,
        preprocessing.random_crops(2),
        preprocessing.random_crops(3),
        usual_shapes=[(batch_size, 3, preprocessing.crop_size, preprocessing.crop_size)],
        threads=runtime.threads,
        batch_size=batch_size,
    )

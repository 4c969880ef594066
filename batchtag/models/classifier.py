"""A torchvision classification network as a model: the published preprocessing, softmax, and the best few labels.

Resizing and cropping happen image by image on uint8 tensors, on the device, by torchvision's v2 transforms: they resize
bytes as bytes, which the published presets' v1 do in floats, four times slower and at most 1 of 255 away. What follows
is one batch. Whole images and the crops of a detector go the same way. On CPUs batches are small, and as many are under
way as there are threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.models.acceleration.bn_folding import fold_batch_norms
from batchtag.models.acceleration.half_precision import check_for_overflow, number_type, reduce_classifier
from batchtag.models.acceleration.openvino import compile_part
from batchtag.models.acceleration.runtime import Lanes, Runtime
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.models.preprocessing import Preprocessing
from batchtag.types import ModelInfo, Prediction

_CPU_BATCH = 4
"""One core of an EPYC, OpenVINO, mobilenet_v3_large: 6.7 ms an image alone, 5.5 in fours, 6.5 in sixteens; resnet50
takes 79 ms in all of them."""


class _FromPixels(nn.Module):
    """A network of (N, 3, S, S) uint8 to logits."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(self._preprocessing.normalised(batch)).float()
        return logits


class Classifier:
    """Runs in the worker. The network becomes this classifier's own. Batches hold `batch_size` images at most."""

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
        self.batch_size = runtime.batch_size or (128 if runtime.on_gpu else _CPU_BATCH)
        self._device = torch.device(runtime.device)
        # 32 photos through resnet50 on two cores: 1.9 s so, 2.4 s in the default layout.
        self._network: nn.Module = _FromPixels(network.eval().to(memory_format=torch.channels_last), preprocessing)
        if runtime.engine == "openvino":
            batch = min(self.batch_size, _CPU_BATCH)
            usual = [(batch, 3, preprocessing.crop_size, preprocessing.crop_size)]
            some, others = preprocessing.noise(2), preprocessing.noise(3)
            self._network = compile_part(self._network, some, others, usual=usual, threads=runtime.threads, batch=batch)
        else:
            fold_batch_norms(self._network, preprocessing.noise(1))
        self._network.to(self._device)
        self._dtype = number_type(runtime)
        if self._dtype is not torch.float32:
            example = preprocessing.normalised(preprocessing.noise(2).to(self._device))
            inner = reduce_classifier(network, example, self._dtype, num_labels=len(info.labels))
            self._network = _FromPixels(inner, preprocessing)
        self._uploads = Uploads(self._device) if runtime.on_gpu else None
        self._lanes = Lanes(runtime)
        self._preprocessing = preprocessing
        self._score_floor = score_floor
        self._num_best = min(max_tags, len(info.labels))
        self._is_no_tag = torch.tensor([label == "" for label in info.labels], device=self._device)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        batches = [images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size)]
        if self._uploads:
            # All batches are under way before the first answer is waited for.
            answers = [self._best(self._preprocessing.centres(some)) for some in self._uploads.ahead(batches)]
            found = [self._predictions(one) for one in answers]
        else:
            found = self._lanes.map(self._look, batches)
        return [prediction for some in found for prediction in some]

    def _look(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        centres = [self._preprocessing.centre(to_device(image, self._device)) for image in images]
        return self._predictions(self._best(torch.stack(centres)))

    def _best(self, batch: Tensor) -> Tensor:
        """Of (N, 3, S, S) uint8: scores and label ids, best first, as (2, N, labels) float64 on the device."""
        with torch.inference_mode():
            scores = self._network(batch).softmax(dim=1).masked_fill(self._is_no_tag, -1.0)
            return torch.stack([best.double() for best in scores.topk(self._num_best, dim=1)])

    def _predictions(self, best: Tensor) -> list[Prediction]:
        scores, label_ids = best.cpu().numpy()
        if self._dtype is torch.float16:
            check_for_overflow(self._network)
        scores, label_ids = scores.astype(np.float32), label_ids.astype(np.int32)
        return [self._prediction(one, ids) for one, ids in zip(scores, label_ids, strict=True)]

    def _prediction(self, scores: NDArray[np.float32], label_ids: NDArray[np.int32]) -> Prediction:
        kept = (scores >= self._score_floor) & (scores >= 0)
        return Prediction(scores=scores[kept], label_ids=label_ids[kept])

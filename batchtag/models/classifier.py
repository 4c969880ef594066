"""A torchvision classification network as a model: the published preprocessing, softmax, and the best few labels.

Resizing and cropping happen image by image on uint8 tensors, on the device, by torchvision's v2 transforms: they resize
bytes as bytes, which the published presets' v1 do in floats, four times slower and at most 1 of 255 away. What follows
is one batch. Whole images and the crops of a detector go the same way. On CPUs batches are small, and as many are under
way as there are threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from batchtag.models.folding import fold_batch_norms
from batchtag.models.openvino import compile_part
from batchtag.models.pixels import Uploads, to_device
from batchtag.models.precision import check_for_overflow, number_type, reduce_classifier
from batchtag.models.runtime import Lanes, Runtime
from batchtag.records import InputNeed, ModelCard, Prediction

_CPU_BATCH = 4
"""One core of an EPYC, OpenVINO, mobilenet_v3_large: 6.7 ms an image alone, 5.5 in fours, 6.5 in sixteens; resnet50
takes 79 ms in all of them."""
_LONGEST = 64
"""The preset resizes by the shorter side: a picture of 1 x 4000 would become 232 x 928,000 before its centre is cut out
of that. Beyond this ratio the ends are cut off first, which moves what the network sees by half a pixel at most."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels become a network's input: shorter side to `resize_size`, centre square of `crop_size`, mean and std.

    `interpolation` is a value of torchvision's InterpolationMode: "bilinear", "bicubic"...
    """

    resize_size: int
    crop_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    antialias: bool = True

    @classmethod
    def of_preset(cls, preset: Any) -> Preprocessing:
        """The same as `weights.transforms()` of a classification builder."""
        return cls(
            resize_size=preset.resize_size[0],
            crop_size=preset.crop_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
            antialias=bool(preset.antialias),
        )

    @property
    def need(self) -> InputNeed:
        return InputNeed(mode="cover", shorter_px=self.resize_size)

    def facts(self) -> dict[str, Any]:
        """As plain data, for the digest and for model.json."""
        return asdict(self)

    def centre(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 of any size to (3, crop_size, crop_size) uint8."""
        return self._centre(image[None])[0]

    def centres(self, images: Sequence[Tensor]) -> Tensor:
        """The same of many, as (N, 3, crop_size, crop_size): those of one shape in one step, for devices that wait."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(tuple(image.shape), []).append(i)
        cut = torch.cat([self._centre(torch.stack([images[i] for i in some])) for some in by_shape.values()])
        order = torch.tensor([i for some in by_shape.values() for i in some]).argsort()
        return cut[order.to(cut.device)]

    def _centre(self, images: Tensor) -> Tensor:
        resized = F.resize(
            _without_far_ends(images),
            [self.resize_size],
            interpolation=InterpolationMode(self.interpolation),
            antialias=self.antialias,
        )
        cut: Tensor = F.center_crop(resized, [self.crop_size])
        return cut

    def noise(self, num_images: int) -> Tensor:
        """(N, 3, crop_size, crop_size) uint8 to try a network with; the process's random numbers are left alone."""
        generator = torch.Generator().manual_seed(num_images)
        shape = (num_images, 3, self.crop_size, self.crop_size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def normalised(self, batch: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to float32."""
        normal: Tensor = F.normalize(batch.float().div(255), mean=list(self.mean), std=list(self.std))
        return normal


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
        card: ModelCard,
        preprocessing: Preprocessing,
        score_floor: float,
        max_tags: int,
        runtime: Runtime,
    ) -> None:
        self.card = card
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
            inner = reduce_classifier(network, example, self._dtype, num_labels=len(card.labels))
            self._network = _FromPixels(inner, preprocessing)
        self._uploads = Uploads(self._device) if runtime.on_gpu else None
        self._lanes = Lanes(runtime)
        self._preprocessing = preprocessing
        self._score_floor = score_floor
        self._num_best = min(max_tags, len(card.labels))
        self._is_no_tag = torch.tensor([label == "" for label in card.labels], device=self._device)

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


def _without_far_ends(images: Tensor) -> Tensor:
    """The middle of very elongated pictures, a view; the length removed is even, so the centre stays where it was."""
    height, width = images.shape[-2:]
    excess = max(height, width) - _LONGEST * min(height, width)
    if excess <= 1:
        return images
    cut = excess // 2
    return images[..., cut : height - cut, :] if height > width else images[..., cut : width - cut]

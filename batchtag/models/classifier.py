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
from batchtag.models.pixels import to_device
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
        resized = F.resize(
            _without_far_ends(image)[None],
            [self.resize_size],
            interpolation=InterpolationMode(self.interpolation),
            antialias=self.antialias,
        )
        cut: Tensor = F.center_crop(resized, [self.crop_size])[0]
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
            self._network = compile_part(
                self._network, preprocessing.noise(2), preprocessing.noise(3), threads=runtime.threads
            )
        else:
            fold_batch_norms(self._network, preprocessing.noise(1))
        self._network.to(self._device)
        self._lanes = Lanes(runtime)
        self._preprocessing = preprocessing
        self._score_floor = score_floor
        self._num_best = min(max_tags, len(card.labels))
        self._is_no_tag = torch.tensor([label == "" for label in card.labels], device=self._device)

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        batches = [images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size)]
        return [prediction for some in self._lanes.map(self._forward, batches) for prediction in some]

    def _forward(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        with torch.inference_mode():
            batch = torch.stack([self._preprocessing.centre(to_device(image, self._device)) for image in images])
            scores = self._network(batch).softmax(dim=1).masked_fill(self._is_no_tag, -1.0)
            best = scores.topk(self._num_best, dim=1)
            top_scores, top_ids = best.values.cpu().numpy(), best.indices.int().cpu().numpy()
        return [self._prediction(one, ids) for one, ids in zip(top_scores, top_ids, strict=True)]

    def _prediction(self, scores: NDArray[np.float32], label_ids: NDArray[np.int32]) -> Prediction:
        kept = (scores >= self._score_floor) & (scores >= 0)
        return Prediction(scores=scores[kept], label_ids=label_ids[kept])


def _without_far_ends(image: Tensor) -> Tensor:
    """The middle of a very elongated picture, a view; the length removed is even, so the centre stays where it was."""
    height, width = image.shape[-2:]
    excess = max(height, width) - _LONGEST * min(height, width)
    if excess <= 1:
        return image
    cut = excess // 2
    return image[:, cut : height - cut] if height > width else image[:, :, cut : width - cut]

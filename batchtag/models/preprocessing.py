"""How pixels become the input of a classification network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from batchtag.types import InputResolution

_LONGEST = 64
"""The preset resizes by the shorter side: an image of 1 x 4000 would become 232 x 928,000 before its centre is cut out
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
    def input_resolution(self) -> InputResolution:
        return InputResolution(mode="cover", shorter_px=self.resize_size)

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


def _without_far_ends(images: Tensor) -> Tensor:
    """The middle of very elongated images, a view; the length removed is even, so the centre stays where it was."""
    height, width = images.shape[-2:]
    excess = max(height, width) - _LONGEST * min(height, width)
    if excess <= 1:
        return images
    cut = excess // 2
    return images[..., cut : height - cut, :] if height > width else images[..., cut : width - cut]

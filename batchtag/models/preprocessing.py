"""Preprocessing of a classification network: from the pixels of an image to the network's input.

Sizes are in pixels of the resized image. Detection networks preprocess images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from batchtag.types import InputResolution

_MAX_ASPECT_RATIO = 64
"""Largest ratio of an image's sides that is resized as it is. The preset resizes by the shorter side: an image of
1 x 4000 would become 232 x 928,000 pixels before its centre is cut out. The ends of longer images are cut off first,
which shifts the input of the network by half a pixel at most."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps from an image to a classifier's input.

    The shorter side is resized to `resize_size`, the centre square of `crop_size` is cut out, and each colour has
    `mean` subtracted and is divided by `std` (both for values in [0, 1], in the order RGB). `interpolation` is a value
    of torchvision's InterpolationMode, such as "bilinear" or "bicubic".
    """

    resize_size: int
    crop_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    antialias: bool = True

    @classmethod
    def from_preset(cls, preset: Any) -> Preprocessing:
        """Copy the settings of `weights.transforms()` of a classification builder."""
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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for the digest and for model.json."""
        return asdict(self)

    def crop_centre(self, image: Tensor) -> Tensor:
        """Resize a (3, H, W) uint8 image of any size and cut out its centre: (3, crop_size, crop_size) uint8."""
        return self._crop_centres(image[None])[0]

    def crop_each_centre(self, images: Sequence[Tensor]) -> Tensor:
        """Do the same for many images: (N, 3, crop_size, crop_size) uint8, in the order given.

        Images of one shape are resized in one step, which a GPU does faster than many small steps.
        """
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(tuple(image.shape), []).append(i)
        crops = torch.cat([self._crop_centres(torch.stack([images[i] for i in ids])) for ids in by_shape.values()])
        order = torch.tensor([i for ids in by_shape.values() for i in ids]).argsort()
        return crops[order.to(crops.device)]

    def _crop_centres(self, images: Tensor) -> Tensor:
        resized = F.resize(
            _cut_far_ends(images),
            [self.resize_size],
            interpolation=InterpolationMode(self.interpolation),
            antialias=self.antialias,
        )
        crops: Tensor = F.center_crop(resized, [self.crop_size])
        return crops

    def normalize(self, crops: Tensor) -> Tensor:
        """Turn (N, 3, S, S) uint8 into the network's input: float32, with mean subtracted and divided by std."""
        normal: Tensor = F.normalize(crops.float().div(255), mean=list(self.mean), std=list(self.std))
        return normal

    def random_crops(self, num_images: int) -> Tensor:
        """Make (N, 3, crop_size, crop_size) uint8 noise for trying out a network.

        The same number of images gives the same noise. The process's own random generator is left alone.
        """
        generator = torch.Generator().manual_seed(num_images)
        shape = (num_images, 3, self.crop_size, self.crop_size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _cut_far_ends(images: Tensor) -> Tensor:
    """Cut off the ends of very elongated images; return a view.

    The same length is removed at both ends, so the centre stays where it was.
    """
    height, width = images.shape[-2:]
    excess = max(height, width) - _MAX_ASPECT_RATIO * min(height, width)
    if excess <= 1:
        return images
    cut = excess // 2
    return images[..., cut : height - cut, :] if height > width else images[..., cut : width - cut]

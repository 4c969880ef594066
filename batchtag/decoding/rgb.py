"""Pixels of any Pillow mode to 8-bit RGB, with Pillow's own conversion except for deep grey images."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def load_rgb(image: Image.Image, depth: Literal["clip", "scale"]) -> Image.Image:
    """Load the pixels of an opened image and convert them to RGB, without a copy if they are RGB already.

    `depth` decides about grey images of 16 bits or more: "clip" converts them as Pillow does, "scale" maps their range
    to 0..255. Raises whatever Pillow raises for damaged pixels.
    """
    image.load()
    if image.mode == "RGB":
        return image
    if depth == "scale" and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return Image.fromarray(_scale_to_8_bits(np.asarray(image))).convert("RGB")
    # The transparent colour changes no RGB pixel, but Pillow would look it up, warn, and fail for some images.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _scale_to_8_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey samples (H, W) of 16 bits, 32 bits or floating point to 0..255.

    16 bits map 0..65535, whatever range the image uses, so that the images of a series stay comparable. (Pillow has
    already scaled a PGM of any maxval, and the channels of 16-bit RGB, to the full range.) Wider integers count as 16
    bits and floats as 0..1. Only if a sample lies outside, the range is the image's own minimum to maximum. NaN and
    infinities become 0.
    """
    if samples.dtype.itemsize == 2:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = np.isfinite(samples)
    values = np.where(finite, samples, 0).astype(np.float64)
    low, high = 0.0, 1.0 if samples.dtype.kind == "f" else 65535.0
    if values.min() < low or values.max() > high:
        low, high = float(values[finite].min()), float(values[finite].max())
    values = (values - low) * (255.0 / ((high - low) or 1.0))
    return np.where(finite, np.rint(values), 0).astype(np.uint8)

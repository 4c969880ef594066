"""JPEGs for the benchmark: those of a folder, or drawn ones, which are the same for a seed on every machine."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SIZES = ((640, 480), (640, 427), (480, 640), (500, 375), (640, 640))
_NUM_SHAPES = 24
"""Rectangles and ellipses in a drawn image."""


def read_or_draw_jpegs(folder: Path, *, num_images: int, seed: int = 0) -> tuple[list[bytes], str]:
    """Return JPEGs, repeated if there are fewer, and their origin in words. All are RGB without EXIF rotation."""
    photographs = [path.read_bytes() for path in sorted(folder.rglob("*.jpg")) if _is_usable(path)]
    origin = f"{len(photographs)} photographs" if photographs else "drawn images"
    distinct = photographs or [draw_jpeg(seed, number) for number in range(min(num_images, 4 * len(_SIZES)))]
    return list(itertools.islice(itertools.cycle(distinct), num_images)), origin


def _is_usable(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1


def draw_jpeg(seed: int, number: int) -> bytes:
    """Draw one JPEG: rectangles and ellipses on a gradient, a little blurred, without the pixel noise that cameras
    remove."""
    rng = np.random.default_rng([seed, number])
    width, height = _SIZES[number % len(_SIZES)]
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(_NUM_SHAPES):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        side = [int(value) for value in rng.integers(10, min(width, height) // 2, 2)]
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape((x, y, x + side[0], y + side[1]), fill=colour)
    file = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.7)).save(file, "JPEG", quality=90)
    return file.getvalue()

"""JPEGs to measure with: those of a folder, or drawn ones, the same for a seed on every machine."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SHAPES = ((640, 480), (640, 427), (480, 640), (500, 375), (640, 640))
_THINGS = 24


def jpegs(folder: Path, *, num_images: int, seed: int = 0) -> tuple[list[bytes], str]:
    """So many JPEGs, repeated where there are fewer, and where they are from in words. RGB without EXIF rotation."""
    found = [path.read_bytes() for path in sorted(folder.rglob("*.jpg")) if _is_plain(path)]
    origin = f"{len(found)} photographs" if found else "drawn images"
    some = found or [drawn(seed, number) for number in range(min(num_images, 4 * len(_SHAPES)))]
    return list(itertools.islice(itertools.cycle(some), num_images)), origin


def _is_plain(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1


def drawn(seed: int, number: int) -> bytes:
    """One JPEG: rectangles and ellipses on a gradient, a little blurred, without noise that no camera would keep."""
    rng = np.random.default_rng([seed, number])
    width, height = _SHAPES[number % len(_SHAPES)]
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(_THINGS):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        side = [int(value) for value in rng.integers(10, min(width, height) // 2, 2)]
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape((x, y, x + side[0], y + side[1]), fill=colour)
    file = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.7)).save(file, "JPEG", quality=90)
    return file.getvalue()

"""One shelf scene with its ground truth: the position of every product, its visible share, and the pixels.

Everything is placed before anything is painted. A product of which less than `MIN_VISIBLE` would be visible is left out
of the image, so that every visible product is a true object, and every true object is visible. The true box is what a
careful annotator draws: around the visible part, as in COCO and VOC. (With boxes around the whole product, a model
would have to guess hidden edges, and AP would measure the guesses.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from batchtag.demo.scenes.camera import photograph
from batchtag.demo.scenes.furniture import draw_empty_shelf
from batchtag.demo.scenes.stocking import Placed, place_products
from batchtag.errors import UsageError

MIN_VISIBLE = 0.35
"""Smallest visible share of a labelled product. Below it, people too can only guess brand and shape."""

_IMAGE_SIZES = ((640, 480), (640, 480), (480, 360), (600, 450), (640, 427), (480, 640), (360, 480), (450, 600))
_SLIVER = 0.04


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One labelled product. `box_xyxy`, in whole pixels, is around its visible part; `visible_share` is in (0, 1]."""

    shape: str
    brand: str
    box_xyxy: tuple[float, float, float, float]
    visible_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One image, `pixels` (H, W, 3) uint8 RGB, and every product on it, in the order of painting."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def draw_scene(seed: int, number: int) -> Scene:
    """Draw image `number` of the endless set of `seed`. It does not depend on which other images are drawn.

    The pixels are the same for the same versions of Pillow and numpy. Raises UsageError for a negative seed or number.
    Takes about 30 ms of one core.
    """
    if seed < 0 or number < 0:
        raise UsageError(f"scenes: seed is {seed} and number is {number}; both must be 0 or more")
    rng = np.random.default_rng([seed, number])
    width, height = _IMAGE_SIZES[rng.integers(len(_IMAGE_SIZES))]
    shelf = draw_empty_shelf(width, height, rng)
    wanted = place_products(shelf, rng)
    shares = _shares(wanted, _owners(wanted, width, height))
    placed = [each for each, share in zip(wanted, shares, strict=True) if not each.product or share >= MIN_VISIBLE]
    image = shelf.image
    for each in placed:
        _paint(image, each)
    return Scene(pixels=photograph(image, rng), objects=_ground_truth(placed, _owners(placed, width, height)))


def _owners(placed: list[Placed], width: int, height: int) -> NDArray[np.intp]:
    """Return (H, W): for each pixel the visible one of `placed`, counted from 1; 0 is the shelf."""
    owners = np.zeros((height, width), np.intp)
    for number, each in enumerate(placed, start=1):
        solid, (top, left) = _solid(each), (max(0, -each.y), max(0, -each.x))
        seen = owners[max(0, each.y) : each.y + solid.shape[0], max(0, each.x) : each.x + solid.shape[1]]
        seen[solid[top : top + seen.shape[0], left : left + seen.shape[1]]] = number
    return owners


def _solid(placed: Placed) -> NDArray[np.bool_]:
    return np.asarray(placed.sprite.mask) > 127


def _shares(placed: list[Placed], owners: NDArray[np.intp]) -> list[float]:
    """Return the visible share of each, 0 to 1. Parts outside the image count as hidden."""
    shown = np.bincount(owners.ravel(), minlength=len(placed) + 1)[1:].tolist()
    return [part / max(1, int(_solid(each).sum())) for part, each in zip(shown, placed, strict=True)]


def _paint(image: Image.Image, placed: Placed) -> None:
    if placed.casts_shadow:
        shadow = np.asarray(placed.sprite.mask.filter(ImageFilter.BoxBlur(2))) // 3
        image.paste((0, 0, 0), (placed.x + 4, placed.y + 1), Image.fromarray(shadow))
    image.paste(placed.sprite.pixels, (placed.x, placed.y), placed.sprite.mask)


def _ground_truth(placed: list[Placed], owners: NDArray[np.intp]) -> tuple[SceneObject, ...]:
    objects = []
    for number, (each, share) in enumerate(zip(placed, _shares(placed, owners), strict=True), start=1):
        if each.product is None:
            continue
        left, top = max(0, each.x), max(0, each.y)
        own = owners[top : each.y + each.sprite.height, left : each.x + each.sprite.width] == number
        (x_min, x_max), (y_min, y_max) = _extent(own.sum(axis=0)), _extent(own.sum(axis=1))
        objects.append(
            SceneObject(
                shape=each.product.shape.name,
                brand=each.product.brand.name,
                box_xyxy=(float(left + x_min), float(top + y_min), float(left + x_max), float(top + y_max)),
                visible_share=share,
            )
        )
    return tuple(objects)


def _extent(counts: NDArray[np.intp]) -> tuple[int, int]:
    """Return the first and last (exclusive) visible position, without slivers at the edges that an annotator would
    ignore."""
    enough = np.flatnonzero(counts >= max(1, _SLIVER * counts.max()))
    return int(enough[0]), int(enough[-1]) + 1

"""One shelf scene with its truth: what stands where, how much of it shows, and the pixels.

Everything is placed before anything is painted. What would show less than `MIN_VISIBLE` of itself is left out of the
image, so that every product one can see is a true object and the other way round. The true box is what a careful
annotator draws: round the part that shows, as COCO and VOC do, not round what must be behind. (With boxes round the
whole product a hidden edge would have to be guessed, and AP would measure the guessing.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from batchtag.demo.scenes.camera import photograph
from batchtag.demo.scenes.furniture import empty_shelf
from batchtag.demo.scenes.stocking import Placed, stock
from batchtag.errors import UsageError

MIN_VISIBLE = 0.35
"""The share of a product that must show. Below it brand and shape are a guess for a person too."""

_SIZES = ((640, 480), (640, 480), (480, 360), (600, 450), (640, 427), (480, 640), (360, 480), (450, 600))
_SLIVER = 0.04


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One true object: `box_xyxy` in whole pixels of the image round what shows; `visible_share` in (0, 1]."""

    shape: str
    brand: str
    box_xyxy: tuple[float, float, float, float]
    visible_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """An image, `pixels` (H, W, 3) uint8 RGB, and every product on it, in the order they were painted."""

    pixels: NDArray[np.uint8]
    objects: tuple[Thing, ...]


def draw_scene(seed: int, number: int) -> Scene:
    """Image `number` of the endless set that `seed` names: always the same one, whatever else is drawn.

    The same pixels on one version of Pillow and numpy. Raises UsageError for a negative seed or number. Needs some
    30 ms of one core.
    """
    if seed < 0 or number < 0:
        raise UsageError(f"scenes: seed is {seed} and number is {number}; both must be 0 or more")
    dice = np.random.default_rng([seed, number])
    width, height = _SIZES[dice.integers(len(_SIZES))]
    shelf = empty_shelf(width, height, dice)
    wanted = stock(shelf, dice)
    shares = _shares(wanted, _owners(wanted, width, height))
    placed = [each for each, share in zip(wanted, shares, strict=True) if not each.product or share >= MIN_VISIBLE]
    image = shelf.image
    for each in placed:
        _paint(image, each)
    return Scene(pixels=photograph(image, dice), objects=_ground_truth(placed, _owners(placed, width, height)))


def _owners(placed: list[Placed], width: int, height: int) -> NDArray[np.intp]:
    """(H, W): for each pixel which one of `placed` shows there, counted from 1; 0 is the shelf."""
    owners = np.zeros((height, width), np.intp)
    for number, each in enumerate(placed, start=1):
        solid, (top, left) = _solid(each), (max(0, -each.y), max(0, -each.x))
        seen = owners[max(0, each.y) : each.y + solid.shape[0], max(0, each.x) : each.x + solid.shape[1]]
        seen[solid[top : top + seen.shape[0], left : left + seen.shape[1]]] = number
    return owners


def _solid(placed: Placed) -> NDArray[np.bool_]:
    return np.asarray(placed.sprite.mask) > 127


def _shares(placed: list[Placed], owners: NDArray[np.intp]) -> list[float]:
    """How much of each shows in the image, 0 to 1; what the image's edge cuts off counts as hidden."""
    shown = np.bincount(owners.ravel(), minlength=len(placed) + 1)[1:].tolist()
    return [part / max(1, int(_solid(each).sum())) for part, each in zip(shown, placed, strict=True)]


def _paint(image: Image.Image, placed: Placed) -> None:
    if placed.casts_shadow:
        shadow = np.asarray(placed.sprite.mask.filter(ImageFilter.BoxBlur(2))) // 3
        image.paste((0, 0, 0), (placed.x + 4, placed.y + 1), Image.fromarray(shadow))
    image.paste(placed.sprite.pixels, (placed.x, placed.y), placed.sprite.mask)


def _ground_truth(placed: list[Placed], owners: NDArray[np.intp]) -> tuple[Thing, ...]:
    things = []
    for number, (each, share) in enumerate(zip(placed, _shares(placed, owners), strict=True), start=1):
        if each.product is None:
            continue
        left, top = max(0, each.x), max(0, each.y)
        own = owners[top : each.y + each.sprite.height, left : each.x + each.sprite.width] == number
        (x_min, x_max), (y_min, y_max) = _extent(own.sum(axis=0)), _extent(own.sum(axis=1))
        things.append(
            Thing(
                shape=each.product.shape.name,
                brand=each.product.brand.name,
                box_xyxy=(float(left + x_min), float(top + y_min), float(left + x_max), float(top + y_max)),
                visible_share=share,
            )
        )
    return tuple(things)


def _extent(counts: NDArray[np.intp]) -> tuple[int, int]:
    """From where to where something shows, but for rims of slivers that nobody would draw a box around."""
    enough = np.flatnonzero(counts >= max(1, _SLIVER * counts.max()))
    return int(enough[0]), int(enough[-1]) + 1

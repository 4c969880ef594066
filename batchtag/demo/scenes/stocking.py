"""The positions of products on an empty shelf, and of things in front of them. Nothing is painted here.

As in a shop, the same product stands several times in a row, with gaps, plants and trays between the rows. Neighbours
overlap a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from batchtag.demo.scenes.brands import BRANDS, Brand
from batchtag.demo.scenes.furniture import Shelf
from batchtag.demo.scenes.obstacles import draw_hand, draw_plant, draw_pole, draw_sign, draw_tray
from batchtag.demo.scenes.products import Sprite, paint_product
from batchtag.demo.scenes.shapes import SHAPES, Shape

_SMALLEST_PX = 25
_TALLEST_PX = 165


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """The product of a brand with one shape."""

    shape: Shape
    brand: Brand


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A sprite and its upper left corner in px. It may be partly outside the image. `product` is None for obstacles."""

    sprite: Sprite
    x: int
    y: int
    product: Product | None = None
    casts_shadow: bool = True


def place_products(shelf: Shelf, rng: np.random.Generator) -> list[Placed]:
    """Place everything on a shelf. The result is in the order of painting: later ones hide earlier ones."""
    crowd, scale = rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.0)
    placed: list[Placed] = []
    for board_y in shelf.boards_y:
        board, trays = _fill_board(shelf, board_y, crowd, scale, rng)
        order = (np.arange(len(board)), np.arange(len(board))[::-1], rng.permutation(len(board)))[rng.integers(3)]
        placed.extend(board[index] for index in order)
        placed.extend(trays)
    return [*placed, *_place_in_front(shelf, rng)]


def _fill_board(
    shelf: Shelf, board_y: int, crowd: float, scale: float, rng: np.random.Generator
) -> tuple[list[Placed], list[Placed]]:
    """Place products on one board from left to right, and the trays in front of them, as two lists.

    `crowd` is the probability that a position is taken.
    """
    board: list[Placed] = []
    trays: list[Placed] = []
    x = rng.uniform(-25, 25)
    while x < shelf.width - 12:
        if rng.random() > crowd:
            x += rng.uniform(15, 70)
        elif rng.random() < 0.04:
            sprite = draw_plant(min(_TALLEST_PX, shelf.clearance_px) * rng.uniform(0.5, 0.8), rng)
            board.append(Placed(sprite=sprite, x=round(x), y=board_y - sprite.height - 1))
            x += sprite.width
        else:
            row = _place_row(shelf, board_y, x, scale, rng)
            board.extend(row)
            if rng.random() < 0.12:
                trays.append(_place_tray(row, board_y, rng))
            x = row[-1].x + row[-1].sprite.width * rng.uniform(0.9, 1.0) + rng.uniform(0, 10)
    return board, trays


def _place_row(shelf: Shelf, board_y: int, x: float, scale: float, rng: np.random.Generator) -> list[Placed]:
    """Place one to four of the same product side by side, from `x` to the right."""
    product = Product(shape=SHAPES[rng.integers(len(SHAPES))], brand=BRANDS[rng.integers(len(BRANDS))])
    shape = product.shape
    tall = min(_TALLEST_PX, shelf.clearance_px) * scale * rng.uniform(*shape.stature)
    tall = min(max(tall, _SMALLEST_PX / shape.aspect[0]), shelf.clearance_px)
    upright = paint_product(shape, product.brand, height=tall, rng=rng)
    spacing = rng.uniform(0.82, 1.12)
    row: list[Placed] = []
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))):
        sprite = _disturb(upright, shape, rng)
        y = board_y - sprite.height - int(rng.integers(-1, 5))
        row.append(Placed(sprite=sprite, x=round(x), y=y, product=product))
        x += sprite.width * spacing
    return row


def _place_tray(row: list[Placed], board_y: int, rng: np.random.Generator) -> Placed:
    """Place a tray in front of a row of products."""
    width = row[-1].x + row[-1].sprite.width - row[0].x + 4
    front = draw_tray(width, row[0].sprite.height * rng.uniform(0.12, 0.28), rng)
    return Placed(sprite=front, x=row[0].x - 2, y=board_y - front.height + 1, casts_shadow=False)


def _disturb(upright: Sprite, shape: Shape, rng: np.random.Generator) -> Sprite:
    """Return the product as customers leave it: mostly upright, one in ten leaning, one in 25 lying."""
    kind = rng.random()
    if kind < 0.04 and shape.can_lie:
        angle = 90.0 if rng.random() < 0.5 else 270.0
    elif kind < 0.14:
        angle = float(rng.uniform(-11, 11))
    else:
        return upright
    mask = upright.mask.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    pixels = upright.pixels.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    inside = mask.getbbox() or (0, 0, *mask.size)
    return Sprite(pixels=pixels.crop(inside), mask=mask.crop(inside))


def _place_in_front(shelf: Shelf, rng: np.random.Generator) -> list[Placed]:
    """Place what hides products anywhere on the shelf: sometimes a pole, a hanging sign, or a hand."""
    placed = []
    if rng.random() < 0.15:
        placed.append(Placed(sprite=draw_pole(shelf.height, rng), x=int(rng.integers(0, shelf.width)), y=0))
    if rng.random() < 0.15:
        board_y = shelf.boards_y[rng.integers(len(shelf.boards_y))]
        y = board_y - round(shelf.clearance_px * rng.uniform(0.5, 1.0))
        placed.append(Placed(sprite=draw_sign(rng), x=int(rng.integers(0, shelf.width - 30)), y=y))
    if rng.random() < 0.12:
        arm = draw_hand(rng)
        y = shelf.height - int(rng.integers(70, arm.height))
        placed.append(Placed(sprite=arm, x=int(rng.integers(0, shelf.width - 40)), y=y))
    return placed

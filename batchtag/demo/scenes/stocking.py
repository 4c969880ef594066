"""What stands where on an empty shelf, and what hangs or reaches in front of it. Nothing is painted here.

Products come in runs of the same one, as in a shop, with gaps, plants and cartons between; neighbours overlap a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from batchtag.demo.scenes.brands import BRANDS, Brand
from batchtag.demo.scenes.furniture import Shelf
from batchtag.demo.scenes.obstacles import hand, plant, pole, sign, tray
from batchtag.demo.scenes.products import Sprite, paint_product
from batchtag.demo.scenes.shapes import SHAPES, Shape

_SMALLEST_PX = 25
_TALLEST_PX = 165


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A brand's product of one shape."""

    shape: Shape
    brand: Brand


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A sprite with its upper left corner in px of the image, which it may leave; `product` is None for the rest."""

    sprite: Sprite
    x: int
    y: int
    product: Product | None = None
    casts_shadow: bool = True


def stock(shelf: Shelf, dice: np.random.Generator) -> list[Placed]:
    """All that is put there, in the order it is to be painted: what comes later hides what came before."""
    crowd, scale = dice.uniform(0.4, 0.9), dice.uniform(0.8, 1.0)
    placed: list[Placed] = []
    for floor_y in shelf.floors_y:
        board, cartons = _fill(shelf, floor_y, crowd, scale, dice)
        order = (np.arange(len(board)), np.arange(len(board))[::-1], dice.permutation(len(board)))[dice.integers(3)]
        placed.extend(board[index] for index in order)
        placed.extend(cartons)
    return [*placed, *_in_front(shelf, dice)]


def _fill(
    shelf: Shelf, floor_y: int, crowd: float, scale: float, dice: np.random.Generator
) -> tuple[list[Placed], list[Placed]]:
    """One board from left to right, and the cartons before its products; `crowd`: how likely a place is taken."""
    board: list[Placed] = []
    cartons: list[Placed] = []
    x = dice.uniform(-25, 25)
    while x < shelf.width - 12:
        if dice.random() > crowd:
            x += dice.uniform(15, 70)
        elif dice.random() < 0.04:
            sprite = plant(min(_TALLEST_PX, shelf.room_px) * dice.uniform(0.5, 0.8), dice)
            board.append(Placed(sprite=sprite, x=round(x), y=floor_y - sprite.height - 1))
            x += sprite.width
        else:
            run = _run(shelf, floor_y, x, scale, dice)
            board.extend(run)
            if dice.random() < 0.12:
                cartons.append(_carton(run, floor_y, dice))
            x = run[-1].x + run[-1].sprite.width * dice.uniform(0.9, 1.0) + dice.uniform(0, 10)
    return board, cartons


def _run(shelf: Shelf, floor_y: int, x: float, scale: float, dice: np.random.Generator) -> list[Placed]:
    """One to four of the same product side by side."""
    product = Product(shape=SHAPES[dice.integers(len(SHAPES))], brand=BRANDS[dice.integers(len(BRANDS))])
    shape = product.shape
    tall = min(_TALLEST_PX, shelf.room_px) * scale * dice.uniform(*shape.stature)
    tall = min(max(tall, _SMALLEST_PX / shape.aspect[0]), shelf.room_px)
    upright = paint_product(shape, product.brand, height=tall, dice=dice)
    spacing = dice.uniform(0.82, 1.12)
    run: list[Placed] = []
    for _ in range(int(dice.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))):
        sprite = _disturbed(upright, shape, dice)
        y = floor_y - sprite.height - int(dice.integers(-1, 5))
        run.append(Placed(sprite=sprite, x=round(x), y=y, product=product))
        x += sprite.width * spacing
    return run


def _carton(run: list[Placed], floor_y: int, dice: np.random.Generator) -> Placed:
    """The front of the carton that a run came in, before its feet."""
    wide = run[-1].x + run[-1].sprite.width - run[0].x + 4
    front = tray(wide, run[0].sprite.height * dice.uniform(0.12, 0.28), dice)
    return Placed(sprite=front, x=run[0].x - 2, y=floor_y - front.height + 1, casts_shadow=False)


def _disturbed(upright: Sprite, shape: Shape, dice: np.random.Generator) -> Sprite:
    """As a customer left it: mostly upright, one in ten leaning, now and then lying."""
    kind = dice.random()
    if kind < 0.04 and shape.can_lie:
        angle = 90.0 if dice.random() < 0.5 else 270.0
    elif kind < 0.14:
        angle = float(dice.uniform(-11, 11))
    else:
        return upright
    mask = upright.mask.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    pixels = upright.pixels.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    inside = mask.getbbox() or (0, 0, *mask.size)
    return Sprite(pixels=pixels.crop(inside), mask=mask.crop(inside))


def _in_front(shelf: Shelf, dice: np.random.Generator) -> list[Placed]:
    """What hides products of the whole shelf: seldom an upright, a hanging offer, somebody's hand."""
    placed = []
    if dice.random() < 0.15:
        placed.append(Placed(sprite=pole(shelf.height, dice), x=int(dice.integers(0, shelf.width)), y=0))
    if dice.random() < 0.15:
        floor_y = shelf.floors_y[dice.integers(len(shelf.floors_y))]
        y = floor_y - round(shelf.room_px * dice.uniform(0.5, 1.0))
        placed.append(Placed(sprite=sign(dice), x=int(dice.integers(0, shelf.width - 30)), y=y))
    if dice.random() < 0.12:
        arm = hand(dice)
        y = shelf.height - int(dice.integers(70, arm.height))
        placed.append(Placed(sprite=arm, x=int(dice.integers(0, shelf.width - 40)), y=y))
    return placed

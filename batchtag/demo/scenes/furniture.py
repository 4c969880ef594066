"""The empty shelf: back wall, boards, price tags, and posters behind the products.

None of it is an object. Price tags and posters are there to be ignored by a detector, some in the brands' own colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from batchtag.demo.scenes.brands import Colour

WOODS: tuple[Colour, ...] = (
    (176, 128, 78), (214, 214, 216), (122, 82, 50), (236, 234, 230), (90, 92, 98), (200, 166, 116)
)  # fmt: skip
PAPERS: tuple[Colour, ...] = (
    (252, 250, 240), (255, 226, 60), (236, 60, 50), (250, 250, 250), (60, 130, 200), (70, 160, 90)
)  # fmt: skip
SAYINGS = ("SALE", "NEW", "-20%", "2 FOR 1", "FRESH", "BIO")
_WALLS: tuple[Colour, ...] = (
    (226, 222, 212), (198, 206, 214), (236, 232, 226), (176, 186, 170), (208, 190, 166), (120, 128, 140), (92, 84, 78),
    (206, 178, 178), (64, 72, 84),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """One empty shelf: `image` (RGB) to paint on; products stand on `floors_y` px and have `room_px` above each."""

    image: Image.Image
    floors_y: tuple[int, ...]
    room_px: float

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


def empty_shelf(width: int, height: int, dice: np.random.Generator) -> Shelf:
    """Two to four boards, 118 to 245 px apart, across the whole image."""
    fitting = [num for num in (2, 3, 4) if 118 <= height / num <= 245]
    num_boards = fitting[dice.integers(len(fitting))]
    pitch = height * dice.uniform(0.92, 1.0) / num_boards
    lowest = height - dice.uniform(10, 22)
    floors = tuple(round(lowest - pitch * above) for above in reversed(range(num_boards)))
    thick, wood, paper = round(dice.uniform(10, 18)), WOODS[dice.integers(len(WOODS))], PAPERS[dice.integers(3)]
    image = _wall(width, height, floors, pitch, dice)
    for y in floors:
        if dice.random() < 0.3:
            _hang_poster(image, y, pitch, dice)
    for y in floors:
        _lay_board(image, y, thick, wood)
        _tag_prices(image, y, thick, paper, dice)
    return Shelf(image=image, floors_y=floors, room_px=pitch - thick)


def shade(colour: Colour, by: float) -> Colour:
    """The colour in more (above 1) or less light."""
    red, green, blue = (min(255, round(value * by)) for value in colour)
    return red, green, blue


@lru_cache(maxsize=64)
def typeface(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; kept, because reading it takes longer than printing a price."""
    return ImageFont.load_default(size_px)


def _wall(width: int, height: int, floors: tuple[int, ...], pitch: float, dice: np.random.Generator) -> Image.Image:
    """The back wall, plain, in planks or perforated, darker under each board."""
    y = np.arange(height)
    light = np.ones(height)
    for floor in floors:
        below = (y - (floor - pitch)) / pitch
        light *= np.where((below > 0) & (below < 1), 0.72 + 0.28 * np.clip(below * 2.2, 0, 1), 1.0)
    grey = np.repeat((255 * light).astype(np.uint8)[:, None], width, axis=1)
    kind, step = dice.integers(4), int(dice.integers(14, 40))
    if kind == 1:
        grey[:, ::step] = grey[:, ::step] // 8 * 7
    elif kind == 2:
        grey[::step] = grey[::step] // 8 * 7
    elif kind == 3:
        for row in (0, 1):
            grey[row::step, ::step] = grey[row::step, 1::step] = 110
    colour, level = _WALLS[dice.integers(len(_WALLS))], Image.fromarray(grey)
    return Image.merge("RGB", [level.point([value * part // 255 for value in range(256)]) for part in colour])


def _lay_board(image: Image.Image, y: int, thick: int, wood: Colour) -> None:
    """A board whose upper side is seen a little, and its front edge."""
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, y - 5, image.width, y), fill=shade(wood, 1.12))
    draw.rectangle((0, y + 1, image.width, y + thick), fill=shade(wood, 0.9))
    draw.line((0, y + thick, image.width, y + thick), fill=shade(wood, 0.55), width=2)


def _tag_prices(image: Image.Image, y: int, thick: int, paper: Colour, dice: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    x = dice.uniform(0, 60)
    while x < image.width:
        left = round(x)
        draw.rectangle((left, y + 2, left + 2 * thick, y + thick - 1), fill=paper)
        price = f"{dice.uniform(0.3, 9.9):.2f}"
        draw.text(
            (left + thick, y + thick / 2), price, font=typeface(max(7, thick - 5)), fill=(20, 20, 20), anchor="mm"
        )
        x += dice.uniform(40, 150)


def _hang_poster(image: Image.Image, y: int, pitch: float, dice: np.random.Generator) -> None:
    """Paper with an image of nothing and a saying."""
    high, wide = pitch * dice.uniform(0.4, 0.7), dice.uniform(50, 120)
    left, top = dice.uniform(-20, image.width - 40), y - pitch * dice.uniform(0.75, 0.85)
    draw = ImageDraw.Draw(image)
    paper, spot = PAPERS[dice.integers(len(PAPERS))], PAPERS[dice.integers(len(PAPERS))]
    draw.rectangle((left, top, left + wide, top + high), fill=shade(paper, 0.92))
    draw.ellipse((left + wide * 0.1, top + high * 0.08, left + wide * 0.6, top + high * 0.55), fill=shade(spot, 0.85))
    saying, font = SAYINGS[dice.integers(len(SAYINGS))], typeface(max(8, round(wide / 5)))
    draw.text((left + wide / 2, top + high * 0.75), saying, font=font, fill=(50, 44, 44), anchor="mm")

"""The empty shelf: back wall, boards, price tags, and posters behind the products.

None of them is a labelled object. A detector must ignore price tags and posters, some of which have a brand's colours.
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
SLOGANS = ("SALE", "NEW", "-20%", "2 FOR 1", "FRESH", "BIO")
_WALLS: tuple[Colour, ...] = (
    (226, 222, 212), (198, 206, 214), (236, 232, 226), (176, 186, 170), (208, 190, 166), (120, 128, 140), (92, 84, 78),
    (206, 178, 178), (64, 72, 84),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """One empty shelf. `image` (RGB) is painted on. Products stand on the boards at `boards_y` (px from the top), with
    `clearance_px` above each board."""

    image: Image.Image
    boards_y: tuple[int, ...]
    clearance_px: float

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


def draw_empty_shelf(width: int, height: int, rng: np.random.Generator) -> Shelf:
    """Draw a shelf of two to four boards, 118 to 245 px apart, across the whole image."""
    fitting = [num for num in (2, 3, 4) if 118 <= height / num <= 245]
    num_boards = fitting[rng.integers(len(fitting))]
    pitch = height * rng.uniform(0.92, 1.0) / num_boards
    lowest = height - rng.uniform(10, 22)
    boards_y = tuple(round(lowest - pitch * above) for above in reversed(range(num_boards)))
    thick, wood, paper = round(rng.uniform(10, 18)), WOODS[rng.integers(len(WOODS))], PAPERS[rng.integers(3)]
    image = _draw_wall(width, height, boards_y, pitch, rng)
    for y in boards_y:
        if rng.random() < 0.3:
            _draw_poster(image, y, pitch, rng)
    for y in boards_y:
        _draw_board(image, y, thick, wood)
        _draw_price_tags(image, y, thick, paper, rng)
    return Shelf(image=image, boards_y=boards_y, clearance_px=pitch - thick)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour in more light (`factor` above 1) or less."""
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


@lru_cache(maxsize=64)
def load_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load Pillow's own font. Cached, because loading it takes longer than drawing a price."""
    return ImageFont.load_default(size_px)


def _draw_wall(
    width: int, height: int, boards_y: tuple[int, ...], pitch: float, rng: np.random.Generator
) -> Image.Image:
    """Draw the back wall: plain, planks or perforated, and darker under each board."""
    y = np.arange(height)
    light = np.ones(height)
    for board_y in boards_y:
        below = (y - (board_y - pitch)) / pitch
        light *= np.where((below > 0) & (below < 1), 0.72 + 0.28 * np.clip(below * 2.2, 0, 1), 1.0)
    grey = np.repeat((255 * light).astype(np.uint8)[:, None], width, axis=1)
    kind, step = rng.integers(4), int(rng.integers(14, 40))
    if kind == 1:
        grey[:, ::step] = grey[:, ::step] // 8 * 7
    elif kind == 2:
        grey[::step] = grey[::step] // 8 * 7
    elif kind == 3:
        for row in (0, 1):
            grey[row::step, ::step] = grey[row::step, 1::step] = 110
    colour, level = _WALLS[rng.integers(len(_WALLS))], Image.fromarray(grey)
    return Image.merge("RGB", [level.point([value * part // 255 for value in range(256)]) for part in colour])


def _draw_board(image: Image.Image, y: int, thick: int, wood: Colour) -> None:
    """Draw a board: a little of its upper side, and its front edge."""
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, y - 5, image.width, y), fill=shade(wood, 1.12))
    draw.rectangle((0, y + 1, image.width, y + thick), fill=shade(wood, 0.9))
    draw.line((0, y + thick, image.width, y + thick), fill=shade(wood, 0.55), width=2)


def _draw_price_tags(image: Image.Image, y: int, thick: int, paper: Colour, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    x = rng.uniform(0, 60)
    while x < image.width:
        left = round(x)
        draw.rectangle((left, y + 2, left + 2 * thick, y + thick - 1), fill=paper)
        price = f"{rng.uniform(0.3, 9.9):.2f}"
        draw.text(
            (left + thick, y + thick / 2), price, font=load_font(max(7, thick - 5)), fill=(20, 20, 20), anchor="mm"
        )
        x += rng.uniform(40, 150)


def _draw_poster(image: Image.Image, y: int, pitch: float, rng: np.random.Generator) -> None:
    """Draw a poster: paper with a spot of colour and a slogan."""
    high, wide = pitch * rng.uniform(0.4, 0.7), rng.uniform(50, 120)
    left, top = rng.uniform(-20, image.width - 40), y - pitch * rng.uniform(0.75, 0.85)
    draw = ImageDraw.Draw(image)
    paper, spot = PAPERS[rng.integers(len(PAPERS))], PAPERS[rng.integers(len(PAPERS))]
    draw.rectangle((left, top, left + wide, top + high), fill=shade(paper, 0.92))
    draw.ellipse((left + wide * 0.1, top + high * 0.08, left + wide * 0.6, top + high * 0.55), fill=shade(spot, 0.85))
    slogan, font = SLOGANS[rng.integers(len(SLOGANS))], load_font(max(8, round(wide / 5)))
    draw.text((left + wide / 2, top + high * 0.75), slogan, font=font, fill=(50, 44, 44), anchor="mm")

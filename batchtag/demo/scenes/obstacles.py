"""Sprites of things that are not products but stand among them or hide them: plants, trays, signs, poles, hands."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from batchtag.demo.scenes.brands import Colour
from batchtag.demo.scenes.furniture import PAPERS, SLOGANS, WOODS, load_font, shade
from batchtag.demo.scenes.products import Sprite

_CARDBOARD: Colour = (178, 140, 96)
_CLAY: Colour = (186, 96, 60)
_LEAF: Colour = (56, 124, 50)
_SKINS: tuple[Colour, ...] = ((234, 190, 162), (204, 150, 116), (142, 94, 66), (92, 60, 44))
_SLEEVES: tuple[Colour, ...] = ((60, 70, 110), (150, 40, 50), (220, 220, 216), (50, 50, 54), (80, 120, 90))


class _Stencil:
    """Draws every shape twice: in colour, and in white on the mask. Both are twice as large as the sprite will be."""

    def __init__(self, width: float, height: float) -> None:
        size = (2 * max(4, round(width)), 2 * max(4, round(height)))
        self.size = size
        self._pixels, self._mask = Image.new("RGB", size), Image.new("L", size)
        self.ink, self._cut = ImageDraw.Draw(self._pixels), ImageDraw.Draw(self._mask)

    def polygon(self, corners: list[tuple[float, float]], colour: Colour) -> None:
        self.ink.polygon(corners, fill=colour)
        self._cut.polygon(corners, fill=255)

    def rounded(self, box: tuple[float, float, float, float], radius: float, colour: Colour) -> None:
        self.ink.rounded_rectangle(box, radius=radius, fill=colour)
        self._cut.rounded_rectangle(box, radius=radius, fill=255)

    def line(self, ends: tuple[float, float, float, float], width: float, colour: Colour) -> None:
        """Draw a line with a round end."""
        x, y, half = ends[2], ends[3], width / 2
        for board, fill in ((self.ink, colour), (self._cut, 255)):
            board.line(ends, fill=fill, width=round(width))
            board.ellipse((x - half, y - half, x + half, y + half), fill=fill)

    def sprite(self) -> Sprite:
        return Sprite(pixels=self._pixels.reduce(2), mask=self._mask.reduce(2))


def draw_plant(height: float, rng: np.random.Generator) -> Sprite:
    """Draw a plant in a flower pot."""
    stencil = _Stencil(height * rng.uniform(0.7, 0.9), height)
    wide, high = stencil.size
    for angle in np.linspace(-2.9, -0.24, int(rng.integers(7, 12))):
        tip_x, tip_y = wide * (0.5 + 0.42 * np.cos(angle)), high * (0.58 + 0.5 * np.sin(angle))
        broad = wide * rng.uniform(0.1, 0.2)
        stencil.line((wide / 2, high * 0.62, float(tip_x), float(tip_y)), broad, shade(_LEAF, rng.uniform(0.6, 1.4)))
    clay = shade(_CLAY, rng.uniform(0.8, 1.15))
    stencil.polygon([(wide * 0.2, high * 0.6), (wide * 0.8, high * 0.6), (wide * 0.7, high), (wide * 0.3, high)], clay)
    stencil.ink.rectangle((wide * 0.2, high * 0.6, wide * 0.8, high * 0.67), fill=shade(clay, 0.8))
    return stencil.sprite()


def draw_tray(width: float, height: float, rng: np.random.Generator) -> Sprite:
    """Draw the front of the open carton in which products were delivered; it hides their lowest part."""
    stencil = _Stencil(width, height)
    wide, high = stencil.size
    colour = shade(_CARDBOARD, rng.uniform(0.7, 1.15))
    stencil.rounded((0, 0, wide, high), 0, colour)
    stencil.ink.line((0, 0, wide, 0), fill=shade(colour, 1.3), width=4)
    stencil.ink.line((wide / 3, high * 0.6, wide * 2 / 3, high * 0.6), fill=shade(colour, 0.7), width=4)
    return stencil.sprite()


def draw_sign(rng: np.random.Generator) -> Sprite:
    """Draw a round or square sign that hangs in front of the products."""
    stencil = _Stencil(*[rng.uniform(30, 55)] * 2)
    side = stencil.size[0]
    paper, slogan = PAPERS[rng.integers(len(PAPERS))], SLOGANS[rng.integers(len(SLOGANS))]
    stencil.rounded((1, 1, side - 2, side - 2), side / 2 if rng.random() < 0.6 else 0, paper)
    ink = (250, 250, 250) if sum(paper) < 420 else (30, 30, 30)
    stencil.ink.text((side / 2, side / 2), slogan, font=load_font(round(side / 4.5)), fill=ink, anchor="mm")
    return stencil.sprite()


def draw_pole(height: int, rng: np.random.Generator) -> Sprite:
    """Draw an upright of the shelf, from the top of the image to its bottom."""
    across = np.linspace(-1, 1, round(rng.uniform(8, 20)))
    wood = np.array(WOODS[rng.integers(len(WOODS))])
    row = np.clip(wood * (1.05 - 0.5 * np.abs(across - 0.2))[:, None], 0, 255).astype(np.uint8)
    pixels = Image.fromarray(np.repeat(row[None], height, axis=0))
    return Sprite(pixels=pixels, mask=Image.new("L", pixels.size, 255))


def draw_hand(rng: np.random.Generator) -> Sprite:
    """Draw an arm that reaches up into the shelf, with the fingers at the upper end."""
    stencil = _Stencil(rng.uniform(40, 55), rng.uniform(140, 200))
    wide = stencil.size[0]
    skin, sleeve = _SKINS[rng.integers(len(_SKINS))], _SLEEVES[rng.integers(len(_SLEEVES))]
    stencil.rounded((wide * 0.3, wide, wide * 0.72, stencil.size[1]), wide * 0.1, skin)
    stencil.line((wide * 0.3, wide * 1.1, wide * 0.09, wide * 0.75), wide * 0.16, shade(skin, 0.93))
    stencil.rounded((wide * 0.18, wide * 0.62, wide * 0.84, wide * 1.35), wide * 0.2, skin)
    for x, top in ((0.26, 0.26), (0.43, 0.14), (0.6, 0.2), (0.76, 0.36)):
        stencil.rounded(
            (wide * (x - 0.08), wide * top, wide * (x + 0.08), wide), wide * 0.08, shade(skin, 0.9 + 0.3 * top)
        )
    stencil.rounded((wide * 0.2, wide * 1.8, wide * 0.82, stencil.size[1] + wide), wide * 0.08, sleeve)
    return stencil.sprite()

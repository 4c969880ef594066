"""One product as a sprite: any shape with the print of any brand.

Flat art (lid, panel, print) is wrapped around the silhouette and lit as a cylinder, a pillow or a flat face. Everything
is done at twice the size and halved at the end. Products are 25 to 140 px large, and this makes their edges and print
smooth. A product takes two milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from batchtag.demo.scenes.brands import Brand, Colour, draw_print_plates
from batchtag.demo.scenes.shapes import Shape

Plane = NDArray[np.floating[Any]]
"""(H, W) float32: a number for every pixel of a sprite. float64 takes twice the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprite:
    """An image to paste: `pixels` (RGB) and `mask` (L, 255 where it is solid) of one size."""

    pixels: Image.Image
    mask: Image.Image

    @property
    def width(self) -> int:
        return self.mask.width

    @property
    def height(self) -> int:
        return self.mask.height


_LIDS: tuple[Colour, ...] = ((240, 240, 238), (40, 40, 44), (196, 160, 60), (170, 174, 180))
_CONTENTS: tuple[Colour, ...] = ((150, 70, 20), (120, 18, 30), (210, 150, 40), (96, 110, 40), (226, 214, 190))
_METAL: Colour = (190, 194, 200)


def paint_product(shape: Shape, brand: Brand, *, height: float, rng: np.random.Generator) -> Sprite:
    """Paint one upright product, about `height` px high. Its mask touches all four sides of the sprite."""
    high = 2 * max(12, round(height))
    wide = 2 * max(10, round(height * rng.uniform(*shape.aspect)))
    points = np.array(shape.profiles[rng.integers(len(shape.profiles))])
    down = (np.arange(high, dtype=np.float32)[:, None] + 0.5) / high
    half = (np.interp(down, points[:, 0], points[:, 1]) * wide / 2).astype(np.float32)
    from_axis = np.arange(wide, dtype=np.float32)[None, :] + 0.5 - wide / 2
    across: Plane = np.clip(from_axis / half, -1, 1)
    mask = np.clip(half - np.abs(from_axis) + 0.5, 0, 1)
    art = np.asarray(_flat_art(shape, brand, (wide, high), rng))
    if shape.round:
        art, mask = _wrap(art, mask, across, half, shape, rng)
    light, gloss = _light(shape, across, down, rng), _gloss(shape, across, rng)
    pixels = np.empty((high, wide, 3), np.uint8)
    for channel in range(3):
        pixels[..., channel] = np.clip(art[..., channel] * light + gloss, 0, 255)
    stencil = (mask * 255).astype(np.uint8)
    return Sprite(pixels=Image.fromarray(pixels).reduce(2), mask=Image.fromarray(stencil).reduce(2))


def _wrap(
    art: NDArray[np.uint8], mask: Plane, across: Plane, half: Plane, shape: Shape, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Plane]:
    """Bend the art around the vertical axis, as seen from slightly above, and round the lower edge of the mask."""
    high, wide = mask.shape
    bulge = np.sqrt(1 - across**2)
    angle = np.arcsin(across) * np.float32(2 / np.pi)
    from_x = wide / 2 + half * (across + shape.round * 0.5 * (angle - across))
    bend = float(rng.uniform(0.0, 0.07)) * wide * shape.round
    from_y = np.arange(high, dtype=np.float32)[:, None] - bend * bulge
    foot = np.clip(high - bend * (1 - bulge) - np.arange(high, dtype=np.float32)[:, None], 0, 1)
    columns, rows = (np.clip(plane, 0, size - 1).astype(np.intp) for plane, size in ((from_x, wide), (from_y, high)))
    return art[rows, columns], mask * foot


def _light(shape: Shape, across: Plane, down: Plane, rng: np.random.Generator) -> Plane:
    """Return the brightness of each pixel, about 1 in the middle."""
    aside = float(rng.uniform(-0.5, 0.5))
    lambert = across * aside + np.sqrt(1 - across**2) * math.sqrt(1 - aside**2)
    light: Plane = 1 - shape.round * 0.62 * (1 - lambert) + 0.1 * (0.5 - down)
    if shape.name == "bag":
        waves = np.sin(across * rng.uniform(5, 11) + down * rng.uniform(-6, 6) + rng.uniform(0, 6))
        light = light + 0.13 * waves * np.abs(2 * down - 1) ** 1.5
    if shape.name == "box" and rng.random() < 0.6:  # its right side is visible and darker
        light = np.where(across > rng.uniform(0.62, 0.8), light * 0.62, light)
    return light


def _gloss(shape: Shape, across: Plane, rng: np.random.Generator) -> Plane:
    """Return the bright streak along a round, shiny product; zero on cardboard."""
    where, strength = rng.uniform(-0.65, 0.5), rng.uniform(0, 100) * shape.round
    streak: Plane = strength * np.exp(-(((across - where) / 0.11) ** 2))
    return streak


def _flat_art(shape: Shape, brand: Brand, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw the materials and the print, before they are bent and lit."""
    wide, high = size
    art = Image.new("RGB", size, brand.body)
    draw = ImageDraw.Draw(art)
    lids = (*_LIDS, brand.panel, brand.body)
    lid = lids[rng.integers(len(lids))]
    if shape.name == "jar":
        draw.rectangle((0, 0, wide, high), fill=_CONTENTS[rng.integers(len(_CONTENTS))])
        draw.rectangle((0, high * shape.label[0], wide, high * shape.label[1]), fill=brand.body)
        lid = (brand.body, brand.panel, _METAL)[rng.integers(3)]
    if shape.name == "can":
        lid = _METAL
        draw.rectangle((0, high * 0.955, wide, high), fill=_METAL)
    if shape.lid:
        draw.rectangle((0, 0, wide, high * shape.lid), fill=lid)
    if shape.name == "tube":
        draw.rectangle((0, high * 0.815, wide, high), fill=lid)
        draw.rectangle((0, 0, wide, high * 0.07), fill=brand.panel)
    if shape.name == "bag":
        for y in (0.0, 0.015, 0.03, 0.045, 0.06, 0.94, 0.955, 0.97, 0.985):
            draw.line((0, high * y, wide, high * y), fill=brand.panel, width=1)
    if shape.name == "box" and rng.random() < 0.5:
        draw.rectangle((0, 0, wide, high * 0.1), fill=brand.panel)
    _print_label(art, draw, shape, brand, rng)
    return art


def _print_label(
    art: Image.Image, draw: ImageDraw.ImageDraw, shape: Shape, brand: Brand, rng: np.random.Generator
) -> None:
    """Draw a band, a plate or nothing as background, and the emblem and the word on it."""
    wide, high = art.size
    top, bottom, share = shape.label
    left, right = wide * (1 - share) / 2, wide * (1 + share) / 2
    inset = rng.uniform(0.0, 0.12) * (bottom - top)
    upper, lower = high * (top + inset), high * (bottom - inset)
    background = ("band", "plate", "plate", "bare")[rng.integers(4)]
    if background == "band":
        draw.rectangle((0, upper, wide, lower), fill=brand.panel)
    elif background == "plate":
        draw.rounded_rectangle((left, upper, right, lower), radius=0.2 * (right - left), fill=brand.panel)
    space_x, space_y = (right - left) * 0.8, (lower - upper) * 0.84
    layout = "tall" if space_y > 1.7 * space_x else "wide" if space_x > 1.9 * space_y else "stacked"
    ink, mark = (
        (brand.ink, brand.mark) if background != "bare" else (_contrasting_colour(brand), _contrasting_colour(brand))
    )
    for plate, colour in zip(draw_print_plates(brand, layout), (mark, ink), strict=True):
        scale = min(space_x / plate.width, space_y / plate.height)
        size = (max(4, round(plate.width * scale)), max(4, round(plate.height * scale)))
        corner = (round((wide - size[0]) / 2), round((upper + lower - size[1]) / 2))
        art.paste(colour, corner, plate.resize(size, Image.Resampling.BOX))


def _contrasting_colour(brand: Brand) -> Colour:
    """Return the colour of a print without background: the panel's or the emblem's, whichever differs more from the
    body's."""
    return max((brand.panel, brand.mark), key=lambda colour: abs(sum(colour) - sum(brand.body)))

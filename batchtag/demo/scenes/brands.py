"""The eight invented brands: their colours, emblem and printed word, and how these look on a label.

Two pairs share a body colour (tavo and pirro are red, oruna and nubi are blue), so colour alone does not distinguish
all of them. The words mean nothing. They are set in the font that is part of Pillow, so no font file is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Outline = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Brand:
    """One brand. Colours: `body` of the product, `panel` behind the print, `ink` of the word, `mark` of the emblem.

    `emblem` has closed outlines, each (N, 2) float64 in a square from -1 to 1, y downwards.
    """

    name: str
    body: Colour
    panel: Colour
    ink: Colour
    mark: Colour
    emblem: tuple[Outline, ...]


def _angles(num: int, *, start: float = 0.0) -> NDArray[np.float64]:
    return start + np.linspace(0, 2 * np.pi, num, endpoint=False)


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> Outline:
    return np.stack([x, y], axis=1)


def _star() -> tuple[Outline, ...]:
    angle = _angles(10, start=-np.pi / 2)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return (_points(radius * np.cos(angle), radius * np.sin(angle)),)


def _heart() -> tuple[Outline, ...]:
    angle = _angles(40)
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return (_points(np.sin(angle) ** 3, -(y + 2.5) / 15),)


def _waves() -> tuple[Outline, ...]:
    x = np.linspace(-1, 1, 25)
    y = 0.2 * np.sin(2 * np.pi * x)
    both = np.concatenate([x, x[::-1]])
    return tuple(_points(both, np.concatenate([y - 0.16, y[::-1] + 0.16]) + down) for down in (-0.62, 0.0, 0.62))


def _leaf() -> tuple[Outline, ...]:
    x = np.linspace(-1, 1, 15)
    belly = 0.62 * (1 - x**2)
    sides = [(belly, -0.06), (-belly, 0.06)]
    return tuple(_points((x + y + gap) * 0.72, (y + gap - x) * 0.72) for y, gap in sides)


def _bolt() -> tuple[Outline, ...]:
    return (np.array([(0.25, -1), (-0.6, 0.15), (-0.1, 0.15), (-0.3, 1), (0.62, -0.25), (0.1, -0.25), (0.5, -1)]),)


def _moon() -> tuple[Outline, ...]:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 24)
    inner = np.linspace(1.66 * np.pi, 0.34 * np.pi, 20)
    x = np.concatenate([np.cos(outer), 0.42 + 0.62 * np.cos(inner)])
    y = np.concatenate([np.sin(outer), 0.8 * np.sin(inner)])
    return (_points(x + 0.15, y),)


def _sun() -> tuple[Outline, ...]:
    disc = _angles(24)
    rays = []
    for angle in _angles(8):
        side, tip = np.array([angle - 0.28, angle + 0.28]), np.array([angle])
        rays.append(_points(*(np.concatenate([0.62 * f(side), f(tip)]) for f in (np.cos, np.sin))))
    return (_points(0.5 * np.cos(disc), 0.5 * np.sin(disc)), *rays)


def _peaks() -> tuple[Outline, ...]:
    return (
        np.array([(-1, 0.8), (-0.35, -0.75), (0.3, 0.8)], np.float64),
        np.array([(0.05, -0.1), (0.35, -0.4), (1, 0.8), (0.42, 0.8)], np.float64),
    )


BRANDS = (
    Brand(
        name="tavo", body=(206, 32, 38), panel=(250, 246, 238), ink=(190, 20, 30), mark=(214, 30, 40), emblem=_star()
    ),
    Brand(
        name="pirro", body=(206, 32, 38), panel=(34, 32, 36), ink=(255, 206, 40), mark=(255, 206, 40), emblem=_bolt()
    ),
    Brand(
        name="oruna", body=(24, 92, 178), panel=(236, 246, 252), ink=(16, 70, 150), mark=(30, 150, 214), emblem=_waves()
    ),
    Brand(
        name="nubi", body=(24, 92, 178), panel=(18, 26, 66), ink=(252, 232, 170), mark=(252, 232, 170), emblem=_moon()
    ),
    Brand(
        name="zelka", body=(40, 138, 66), panel=(246, 240, 208), ink=(30, 84, 40), mark=(60, 160, 60), emblem=_leaf()
    ),
    Brand(
        name="solem", body=(248, 190, 28), panel=(236, 96, 24), ink=(255, 250, 230), mark=(255, 226, 90), emblem=_sun()
    ),
    Brand(
        name="milu",
        body=(246, 236, 226),
        panel=(232, 104, 150),
        ink=(255, 255, 255),
        mark=(255, 240, 246),
        emblem=_heart(),
    ),
    Brand(
        name="fenno", body=(66, 66, 74), panel=(58, 178, 172), ink=(20, 40, 44), mark=(245, 252, 250), emblem=_peaks()
    ),
)


@lru_cache(maxsize=64)
def draw_print_plates(brand: Brand, layout: str) -> tuple[Image.Image, Image.Image]:
    """Draw the emblem and the word as two L masks of one size, larger than needed, to be scaled down.

    `layout`: `stacked` is 200 x 160 with the emblem above the word, `wide` is 300 x 100 with the emblem before it,
    `tall` is 100 x 300 with the word rotated upwards. The masks are cached, so never draw on them.
    """
    match layout:
        case "tall":
            word = _word(brand.name, 206, 92).transpose(Image.Transpose.ROTATE_90)
            return _emblem(brand, (100, 300), (50, 45), 40), _on_plate(word, (100, 300), (4, 92))
        case "wide":
            word = _word(brand.name, 206, 96)
            return _emblem(brand, (300, 100), (46, 50), 42), _on_plate(word, (300, 100), (92, 2))
        case _:
            word = _word(brand.name, 196, 70)
            return _emblem(brand, (200, 160), (100, 46), 44), _on_plate(word, (200, 160), (2, 90))


def _on_plate(word: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    plate = Image.new("L", size)
    plate.paste(word, corner)
    return plate


def _emblem(brand: Brand, size: tuple[int, int], centre: tuple[int, int], radius: float) -> Image.Image:
    plate = Image.new("L", size)
    draw = ImageDraw.Draw(plate)
    for outline in brand.emblem:
        draw.polygon([(centre[0] + radius * x, centre[1] + radius * y) for x, y in outline], fill=255)
    return plate


def _word(text: str, width: int, height: int) -> Image.Image:
    """Draw the word in the middle of width x height pixels, as large as its proportions allow."""
    font = ImageFont.load_default(120)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, stroke_width=5))
    large = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(large).text((-left, -top), text, font=font, fill=255, stroke_width=5)
    scale = min(width / large.width, height / large.height)
    word = large.resize((max(1, round(scale * large.width)), max(1, round(scale * large.height))))
    return _on_plate(word, (width, height), ((width - word.width) // 2, (height - word.height) // 2))

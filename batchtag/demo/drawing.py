"""The drawing of a demonstration: images with the found products drawn on them, side by side.

Pure functions of pixels and rows. Labels never cover each other: a label is drawn above, inside or below its box, where
there is space. If there is none the label is left out, and the box remains.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Rectangle = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels."""
Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_COLOURS: tuple[Colour, ...] = (
    (255, 107, 107), (72, 190, 255), (255, 209, 63), (94, 214, 132), (216, 140, 255), (255, 150, 70)
)  # fmt: skip
"""The colour of each tag, in the order of `draw_products`'s `tags`. They repeat if there are more tags."""
_INK: Colour = (17, 20, 24)
_BACKGROUND = 255
_PADDING_PX = 3
_GAP_PX = 12
"""Space between two images."""
_MAX_CLEAR_PRODUCTS = 14
"""With more products on one image there is not enough space for all labels."""
_NUM_COLOURS = (256, 128, 64, 32)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundProduct:
    """One box of the detector, in pixels of the displayed image, with its tag, and the brand of its crop ("": none)."""

    box_xyxy: Rectangle
    tag: str
    score: float
    brand: str = ""

    @property
    def label(self) -> str:
        """The text beside the box, in two lines: brand, and tag with score."""
        return f"{self.brand}\n{self.tag} {self.score:.2f}" if self.brand else f"{self.tag}\n{self.score:.2f}"


def choose_images(
    products: Mapping[str, Sequence[FoundProduct]], *, sizes: Mapping[str, tuple[int, int]], num_images: int = 2
) -> list[str]:
    """Choose the images that show best what was found: many different products, but not too many for labels.

    `products` and `sizes` (width, height) are by the name of the image. The chosen images have the same shape, so that
    they fit side by side, and are landscape if possible. Returns fewer names if there are fewer such images.
    """
    names_by_shape: dict[float, list[str]] = defaultdict(list)
    for name, found in products.items():
        if found:
            width, height = sizes[name]
            names_by_shape[round(width / height, 2)].append(name)

    def clarity(name: str) -> float:
        kinds = {(product.tag, product.brand) for product in products[name]}
        mean_score = sum(product.score for product in products[name]) / len(products[name])
        return len(kinds) * mean_score - 2 * max(0, len(products[name]) - _MAX_CLEAR_PRODUCTS)

    best = {
        shape: sorted(names, key=clarity, reverse=True)[:num_images] for shape, names in sorted(names_by_shape.items())
    }
    ranked = sorted(best, key=lambda shape: (len(best[shape]), shape > 1, sum(map(clarity, best[shape]))))
    return best[ranked[-1]] if ranked else []


def draw_products(pixels: Pixels, products: Sequence[FoundProduct], *, tags: Sequence[str], width: int) -> Pixels:
    """Scale an image to `width` pixels and draw the products on it. The position of a tag in `tags` sets its colour."""
    scale = width / pixels.shape[1]
    image = Image.fromarray(pixels).resize((width, round(pixels.shape[0] * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    font: _Font = ImageFont.load_default(max(10, width // 52))
    line_px = max(2, width // 260)
    # The surest products get their labels first.
    surest_first = sorted(products, key=lambda product: -product.score)
    boxes = [_scale(product.box_xyxy, scale) for product in surest_first]
    colours = [_COLOURS[tags.index(product.tag) % len(_COLOURS)] for product in surest_first]
    for box, colour in zip(boxes, colours, strict=True):
        # A dark line on both sides keeps a box visible on a product of the same colour.
        draw.rectangle(_grow(box, 1), outline=_INK, width=line_px + 2)
        draw.rectangle(box, outline=colour, width=line_px)
    occupied: list[Rectangle] = []
    for product, box, colour in zip(surest_first, boxes, colours, strict=True):
        label_size = _measure_label(draw, product.label, font)
        for place in _list_label_places(box, label_size):
            if _is_inside(place, image.size) and not any(_do_overlap(place, other) for other in occupied):
                occupied.append(place)
                _draw_label(draw, place, product.label, font=font, colour=colour)
                break
    return np.asarray(image)


def _scale(box: Rectangle, scale: float) -> Rectangle:
    x_min, y_min, x_max, y_max = (round(side * scale) for side in box)
    return x_min, y_min, x_max, y_max


def _grow(box: Rectangle, by_px: int) -> Rectangle:
    return box[0] - by_px, box[1] - by_px, box[2] + by_px, box[3] + by_px


def _measure_label(draw: ImageDraw.ImageDraw, text: str, font: _Font) -> tuple[float, float]:
    x_min, y_min, x_max, y_max = draw.multiline_textbbox((0, 0), text, font=font, spacing=2)
    return x_max - x_min + 2 * _PADDING_PX, y_max - y_min + 2 * _PADDING_PX


def _list_label_places(box: Rectangle, size: tuple[float, float]) -> Iterator[Rectangle]:
    """Yield the places of a label of this size, the best first: above, inside at the top or bottom, below, middle."""
    x_min, y_min, x_max, y_max = box
    width, height = size
    for y in (y_min - height, y_min, y_max - height, y_max, (y_min + y_max - height) / 2):
        for x in (x_min, x_max - width, (x_min + x_max - width) / 2):
            yield x, y, x + width, y + height


def _is_inside(place: Rectangle, size: tuple[int, int]) -> bool:
    return place[0] >= 0 and place[1] >= 0 and place[2] <= size[0] and place[3] <= size[1]


def _do_overlap(first: Rectangle, second: Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _draw_label(draw: ImageDraw.ImageDraw, place: Rectangle, text: str, *, font: _Font, colour: Colour) -> None:
    draw.rectangle(place, fill=colour)
    top = draw.multiline_textbbox((0, 0), text, font=font, spacing=2)[1]
    draw.multiline_text((place[0] + _PADDING_PX, place[1] + _PADDING_PX - top), text, fill=_INK, font=font, spacing=2)


def join_side_by_side(images: Sequence[Pixels]) -> Pixels:
    """Join images from left to right with a gap. Space below lower images is white."""
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images) + _GAP_PX * (len(images) - 1)
    joined = np.full((height, width, 3), _BACKGROUND, np.uint8)
    x = 0
    for image in images:
        joined[: image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + _GAP_PX
    return joined


def encode_png(pixels: Pixels, *, max_bytes: int) -> bytes:
    """Encode as PNG with the most colours that fit into `max_bytes`: 256, 128, 64 or 32, without dithering.

    Camera noise makes a PNG in full colour four times as large (684 kB instead of 172 kB for 1600 x 597). With 32
    colours the result may be larger than `max_bytes`.
    """
    image = Image.fromarray(pixels)
    data = b""
    for num_colours in _NUM_COLOURS:
        buffer = io.BytesIO()
        image.quantize(num_colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
        if len(data) <= max_bytes:
            break
    return data

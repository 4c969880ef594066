"""The worst mistakes as images: cut out around what is wrong, small, inside the page.

Boxes are drawn over the image, not into it, so that they stay sharp: the true one dashed, the found one solid, which
is told apart without colours too.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup
from PIL import Image

from batchtag.evaluation.metrics import ClassificationMistake, DetectionMistake
from batchtag.evaluation.report.formatting import file_name, name, score
from batchtag.types import DecodedImage

MOST = 24
LONGEST_PX = 400
Images = Callable[[int], DecodedImage | None]
"""Gives image number i of the evaluation, upright; None if it cannot be had any more."""
Box = tuple[float, float, float, float]

KINDS = {
    "missed": ("missed", "it is there, and nothing was found"),
    "background": ("nothing there", "something was found where no labelled object is"),
    "wrong_class": ("wrong class", "a true object, called by another name"),
    "wrong_place": ("wrong place", "the right class, but the box covers less than half of it"),
    "wrong_both": ("wrong class and place", "near an object of another class"),
    "duplicate": ("found twice", "another box with a higher score found the same object"),
}
"""What people call each kind of a detector's mistake, and what it means."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of the page. `image` is "" where it could not be opened."""

    kind: str
    words: str
    uri: str
    file: str
    image: Markup


def of_detection(mistakes: Sequence[DetectionMistake], *, images: Images, uris: Sequence[str]) -> list[Shown]:
    """At most 24, the worst of each kind in turn, and then kind by kind."""
    by_kind = [[one for one in mistakes if one.kind == kind] for kind in KINDS]
    chosen = [one for turn in zip_longest(*by_kind) for one in turn if one is not None][:MOST]
    chosen.sort(key=lambda one: list(KINDS).index(one.kind))
    opened = _Opened(images)
    shown = []
    for one in chosen:
        true = one.true_box_xyxy
        boxes = [(true, "true"), (one.box_xyxy, "found" if one.kind != "missed" else "doubtful")]
        words = _said(one)
        uri = _uri(uris, one.image)
        svg = opened.svg(one.image, [(box, css) for box, css in boxes if math.isfinite(box[0])], says=words)
        shown.append(Shown(kind=KINDS[one.kind][0], words=words, uri=name(uri), file=file_name(uri), image=svg))
    return shown


def _said(one: DetectionMistake) -> str:
    label, true = name(one.label, 28), name(one.true_label, 28)
    match one.kind:
        case "missed" if one.score > 0:
            return f"{true}: only found with {score(one.score, 2)}, below its threshold"
        case "missed":
            return f"{true}: not found at all"
        case "wrong_class" | "wrong_both":
            return f"{label} {score(one.score, 2)}, but it is {true}"
        case "wrong_place":
            return f"{label} {score(one.score, 2)}, overlap {score(one.iou, 2)} only"
        case _:
            return f"{label} {score(one.score, 2)}"


def of_classification(mistakes: Sequence[ClassificationMistake], *, images: Images, uris: Sequence[str]) -> list[Shown]:
    """The first 24 as they are given: the most confident."""
    opened = _Opened(images)
    shown = []
    for one in mistakes[:MOST]:
        said = f"said {name(one.label, 28)} {score(one.score, 2)}" if one.label else "nothing said"
        words = f"{said}, but it is {name(one.true_label, 28)} ({score(one.true_score, 2)})"
        uri = _uri(uris, one.image)
        image = opened.svg(one.image, [], says=words)
        shown.append(Shown(kind="", words=words, uri=name(uri), file=file_name(uri), image=image))
    return shown


def _uri(uris: Sequence[str], image: int) -> str:
    return uris[image] if image < len(uris) else f"image {image + 1}"


class _Opened:
    """The images, the last one kept: mistakes of one image often come together."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._last: tuple[int, DecodedImage | None] = (-1, None)

    def svg(self, image: int, boxes: Sequence[tuple[Box, str]], *, says: str) -> Markup:
        if self._last[0] != image:
            self._last = (image, self._images(image))
        opened = self._last[1]
        return Markup("") if opened is None else _svg(opened, boxes, says=says)


def _svg(image: DecodedImage, boxes: Sequence[tuple[Box, str]], *, says: str) -> Markup:
    height_px, width_px = image.pixels.shape[:2]
    across, down = width_px / image.width, height_px / image.height
    scaled = [((b[0] * across, b[1] * down, b[2] * across, b[3] * down), css) for b, css in boxes]
    left, top, right, bottom = _part([box for box, _ in scaled], width_px, height_px)
    part = Image.fromarray(image.pixels[top:bottom, left:right])
    part.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    size = Markup('x="{}" y="{}" width="{}" height="{}"')
    frame = size.format(left, top, right - left, bottom - top)
    rects = Markup("").join(
        Markup('<rect class="{}" {}/>').format(css, size.format(*(round(v, 1) for v in (x0, y0, x1 - x0, y1 - y0))))
        for (x0, y0, x1, y1), kind in scaled
        for css in ("under", kind)
    )
    opening = Markup('<svg class="image{}" viewBox="{} {} {} {}" role="img" aria-label="{}">').format(
        "" if boxes else " whole", left, top, right - left, bottom - top, says
    )
    return opening + Markup('<image {} href="{}"/>{}</svg>').format(frame, _data_uri(part), rects)


def _part(boxes: Iterable[Box], width: int, height: int) -> tuple[int, int, int, int]:
    """What of the image to show: all without boxes, else 4:3 around them, with enough around to know the place."""
    boxes = list(boxes)
    if not boxes:
        return 0, 0, width, height
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
    wide = max(2.2 * (right - left), 2.2 * (bottom - top) * 4 / 3, 0.4 * width, 80)
    wide, high = min(wide, width), min(wide * 3 / 4, height)
    high = max(high, min(height, 1.1 * (bottom - top)))
    x = min(max(0.0, (left + right - wide) / 2), width - wide)
    y = min(max(0.0, (top + bottom - high) / 2), height - high)
    return int(x), int(y), max(int(x) + 1, round(x + wide)), max(int(y) + 1, round(y + high))


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=78)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"

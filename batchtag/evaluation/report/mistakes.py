"""The worst mistakes as small images inside the page, cut out around the boxes concerned.

Boxes are SVG elements over the image and not drawn into its pixels, so that they stay sharp. The true box is dashed and
the detected one solid, so that they differ without colours too.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup
from PIL import Image

from batchtag.evaluation.metrics import ClassificationMistake, DetectionMistake
from batchtag.evaluation.report.formatting import format_file_name, format_name, format_score
from batchtag.types import DecodedImage

MAX_SHOWN = 24
"""Maximum number of mistakes on a page."""
MAX_SIDE_PX = 400
"""Maximum longer side of an image inside the page."""
OpenImage = Callable[[int], DecodedImage | None]
"""A function that returns image number i of the evaluation, upright; None if the image cannot be read any more."""
Box = tuple[float, float, float, float]
"""Corners (x_min, y_min, x_max, y_max)."""

KINDS = {
    "missed": ("missed", "an object that was not detected"),
    "background": ("background", "a box where no object is labelled"),
    "wrong_class": ("wrong class", "a box on an object of another class"),
    "wrong_place": ("wrong place", "the correct class, but the box overlaps the object by less than half"),
    "wrong_both": ("wrong class and place", "a box that overlaps an object of another class by less than half"),
    "duplicate": ("duplicate", "another box with a higher score is on the same object"),
}
"""The name and the meaning of each kind of a detector's mistakes, in the order of the page."""


@dataclass(frozen=True, kw_only=True)
class ShownMistake:
    """One mistake on the page, as text and image. `image` is "" if the image could not be opened."""

    kind: str
    description: str
    uri: str
    file_name: str
    image: Markup


def show_detection_mistakes(
    mistakes: Sequence[DetectionMistake], *, open_image: OpenImage, uris: Sequence[str]
) -> list[ShownMistake]:
    """Return at most 24 mistakes, kind by kind. They are chosen in turn from each kind, the worst first."""
    by_kind = [[mistake for mistake in mistakes if mistake.kind == kind] for kind in KINDS]
    in_turn = [mistake for turn in zip_longest(*by_kind) for mistake in turn if mistake is not None]
    chosen = sorted(in_turn[:MAX_SHOWN], key=lambda mistake: list(KINDS).index(mistake.kind))
    drawer = _ImageDrawer(open_image)
    return [_show_detection_mistake(mistake, drawer, uri=_uri(uris, mistake.image)) for mistake in chosen]


def _show_detection_mistake(mistake: DetectionMistake, drawer: _ImageDrawer, *, uri: str) -> ShownMistake:
    detection_css = "doubtful" if mistake.kind == "missed" else "found"
    boxes = [(mistake.true_box_xyxy, "true"), (mistake.box_xyxy, detection_css)]
    description = _describe_detection_mistake(mistake)
    known_boxes = [(box, css) for box, css in boxes if math.isfinite(box[0])]
    return ShownMistake(
        kind=KINDS[mistake.kind][0],
        description=description,
        uri=format_name(uri),
        file_name=format_file_name(uri),
        image=drawer.draw(mistake.image, known_boxes, description=description),
    )


def _describe_detection_mistake(mistake: DetectionMistake) -> str:
    label, true_label = format_name(mistake.label, 28), format_name(mistake.true_label, 28)
    score = format_score(mistake.score, 2)
    match mistake.kind:
        case "missed" if mistake.score > 0:
            return f"{true_label}: only detected with {score}, below its threshold"
        case "missed":
            return f"{true_label}: not detected at all"
        case "wrong_class" | "wrong_both":
            return f"{label} {score}, but it is {true_label}"
        case "wrong_place":
            return f"{label} {score}, overlap only {format_score(mistake.iou, 2)}"
        case _:
            return f"{label} {score}"


def show_classification_mistakes(
    mistakes: Sequence[ClassificationMistake], *, open_image: OpenImage, uris: Sequence[str]
) -> list[ShownMistake]:
    """Return the first 24 mistakes in the order given, which is the most confident first."""
    drawer = _ImageDrawer(open_image)
    shown = []
    for mistake in mistakes[:MAX_SHOWN]:
        label = format_name(mistake.label, 28)
        prediction = f"predicted {label} {format_score(mistake.score, 2)}" if mistake.label else "no prediction"
        true_label = f"{format_name(mistake.true_label, 28)} ({format_score(mistake.true_score, 2)})"
        description = f"{prediction}, but it is {true_label}"
        uri = _uri(uris, mistake.image)
        shown.append(
            ShownMistake(
                kind="",
                description=description,
                uri=format_name(uri),
                file_name=format_file_name(uri),
                image=drawer.draw(mistake.image, [], description=description),
            )
        )
    return shown


def _uri(uris: Sequence[str], image: int) -> str:
    return uris[image] if image < len(uris) else f"image {image + 1}"


class _ImageDrawer:
    """Draws images with boxes as SVG. Keeps the last image opened, because mistakes of one image often follow."""

    def __init__(self, open_image: OpenImage) -> None:
        self._open_image = open_image
        self._last: tuple[int, DecodedImage | None] = (-1, None)

    def draw(self, image_number: int, boxes: Sequence[tuple[Box, str]], *, description: str) -> Markup:
        """Return an image with boxes of (corners in the displayed image, CSS class); "" if it cannot be opened."""
        if self._last[0] != image_number:
            self._last = (image_number, self._open_image(image_number))
        image = self._last[1]
        return Markup("") if image is None else _draw_svg(image, boxes, description=description)


def _draw_svg(image: DecodedImage, boxes: Sequence[tuple[Box, str]], *, description: str) -> Markup:
    height_px, width_px = image.pixels.shape[:2]
    x_scale, y_scale = width_px / image.width, height_px / image.height
    scaled = [((b[0] * x_scale, b[1] * y_scale, b[2] * x_scale, b[3] * y_scale), css) for b, css in boxes]
    left, top, right, bottom = _choose_crop([box for box, _ in scaled], width_px, height_px)
    crop = Image.fromarray(image.pixels[top:bottom, left:right])
    crop.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    size = Markup('x="{}" y="{}" width="{}" height="{}"')
    frame = size.format(left, top, right - left, bottom - top)
    rects = Markup("").join(
        Markup('<rect class="{}" {}/>').format(css, size.format(*(round(v, 1) for v in (x0, y0, x1 - x0, y1 - y0))))
        for (x0, y0, x1, y1), box_css in scaled
        for css in ("under", box_css)
    )
    opening_tag = Markup('<svg class="image{}" viewBox="{} {} {} {}" role="img" aria-label="{}">').format(
        "" if boxes else " whole", left, top, right - left, bottom - top, description
    )
    return opening_tag + Markup('<image {} href="{}"/>{}</svg>').format(frame, _data_uri(crop), rects)


def _choose_crop(boxes: Sequence[Box], width: int, height: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the part to show: the whole image without boxes, else 4:3 around the boxes.

    A margin around the boxes shows where in the image they lie.
    """
    if not boxes:
        return 0, 0, width, height
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
    crop_width = max(2.2 * (right - left), 2.2 * (bottom - top) * 4 / 3, 0.4 * width, 80)
    crop_width, crop_height = min(crop_width, width), min(crop_width * 3 / 4, height)
    crop_height = max(crop_height, min(height, 1.1 * (bottom - top)))
    x = min(max(0.0, (left + right - crop_width) / 2), width - crop_width)
    y = min(max(0.0, (top + bottom - crop_height) / 2), height - crop_height)
    return int(x), int(y), max(int(x) + 1, round(x + crop_width)), max(int(y) + 1, round(y + crop_height))


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=78)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"

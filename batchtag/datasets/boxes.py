"""Labels against the displayed image: the one place where boxes are checked, clipped and converted to pixels.

An image all of whose boxes are dropped stays, as a background image, because it was annotated. A box may reach over the
edge by up to EDGE_TOLERANCE_PX without a problem, because tools round, and count pixels from 0 or from 1; it is then
clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchtag.config.dataset import OnProblem
from batchtag.datasets.base import Dataset, LabelledImage, Problem
from batchtag.datasets.image_check import ImageFacts

EDGE_TOLERANCE_PX = 1.0
"""Pixels by which a box may reach over the edge of its image without a problem."""

Boxes = NDArray[np.float64]
"""(N, 4) as (x_min, y_min, x_max, y_max) in pixels of the displayed image."""


def fit_to_images(dataset: Dataset, facts_by_uri: Mapping[str, ImageFacts], *, on_problem: OnProblem) -> Dataset:
    """Return the usable images, with sizes and content hashes filled in, and boxes in pixels inside the image.

    What `on_problem` drops is left out. All problems are added, also those that `on_problem` does not allow.
    """
    misnamed = {problem.image_uri for problem in dataset.problems if problem.kind == "wrong_image"}
    problems = list(dataset.problems)
    images = []
    for image in dataset.images:
        if image.uri in misnamed and on_problem.wrong_image == "drop":
            continue
        fitted, image_problems = _fit_image(image, facts_by_uri[image.uri], dataset=dataset, on_problem=on_problem)
        problems += image_problems
        if fitted is not None:
            images.append(fitted)
    return replace(dataset, images=tuple(images), problems=tuple(problems), boxes_are_fractions=False)


def _fit_image(
    image: LabelledImage, facts: ImageFacts, *, dataset: Dataset, on_problem: OnProblem
) -> tuple[LabelledImage | None, list[Problem]]:
    if facts.problem:
        return None, [Problem(kind=facts.problem, uri=image.uri, detail=facts.detail)]
    problems = _size_problems(image, facts)
    if problems and on_problem.wrong_size == "drop":
        return None, problems
    image = replace(image, width=facts.width, height=facts.height, content_hash=facts.content_hash)
    if not len(image.boxes_xyxy):
        return image, problems
    if dataset.boxes_are_fractions:
        boxes = image.boxes_xyxy * np.array([image.width, image.height] * 2, np.float64)
        image = replace(image, boxes_xyxy=boxes, areas=_box_areas(boxes))
    fitted, box_problems = _fit_boxes(image, labels=dataset.labels, on_problem=on_problem)
    return fitted, [*problems, *box_problems]


def _size_problems(image: LabelledImage, facts: ImageFacts) -> list[Problem]:
    annotated, displayed = (image.width, image.height), (facts.width, facts.height)
    if 0 in annotated or annotated == displayed:
        return []
    detail = f"is displayed at {displayed[0]} x {displayed[1]} pixels, but annotated at {annotated[0]} x {annotated[1]}"
    if annotated == displayed[::-1] and facts.orientation >= 5:
        detail += (
            f". It is stored rotated (EXIF orientation {facts.orientation}) and was labelled as stored, but boxes are "
            "read in the displayed image. Rotate its pixels as they were labelled and remove the EXIF orientation"
        )
    return [Problem(kind="wrong_size", uri=image.uri, detail=detail)]


def _fit_boxes(
    image: LabelledImage, *, labels: Sequence[str], on_problem: OnProblem
) -> tuple[LabelledImage, list[Problem]]:
    """Clip the boxes to the image and leave out those that are dropped."""
    boxes, width, height = image.boxes_xyxy, image.width, image.height
    kinds = _box_problem_kinds(boxes, width, height)
    problems = [
        Problem(
            kind=kind,
            uri=image.uri,
            detail=f"box {number} ({labels[label_id]!r}) {_DESCRIPTIONS[kind]}: {_format_box(box)}, "
            f"in {width} x {height} pixels",
        )
        for number, (kind, box, label_id) in enumerate(zip(kinds, boxes, image.label_ids, strict=True), 1)
        if kind
    ]
    dropped_kinds = {"zero_area", "outside"} | ({"over_edge"} if on_problem.over_edge == "drop" else set())
    is_kept = np.array([kind not in dropped_kinds for kind in kinds], np.bool_)
    clipped = boxes[is_kept].clip(0.0, np.array([width, height] * 2, np.float64))
    # The area of a clipped box is computed again; the area of a segmentation stays as annotated.
    is_area_of_box = np.isclose(image.areas[is_kept], _box_areas(boxes[is_kept]))
    is_changed = (clipped != boxes[is_kept]).any(axis=1)
    fitted = replace(
        image,
        label_ids=image.label_ids[is_kept],
        boxes_xyxy=clipped,
        areas=np.where(is_area_of_box & is_changed, _box_areas(clipped), image.areas[is_kept]),
        is_crowd=image.is_crowd[is_kept],
    )
    return fitted, problems


_DESCRIPTIONS = {
    "zero_area": "has no area",
    "outside": "lies outside the image",
    "over_edge": "reaches over the edge of the image",
}


def _box_problem_kinds(boxes: Boxes, width: int, height: int) -> list[str]:
    """Return the kind of problem of each box, "" if it has none."""
    x_min, y_min, x_max, y_max = boxes.T
    has_no_area = (x_max <= x_min) | (y_max <= y_min)
    is_outside = (x_max <= 0) | (y_max <= 0) | (x_min >= width) | (y_min >= height)
    excess_px = np.maximum.reduce([-x_min, -y_min, x_max - width, y_max - height])
    choices = np.select([has_no_area, is_outside, excess_px > EDGE_TOLERANCE_PX], [1, 2, 3], 0)
    return [("", "zero_area", "outside", "over_edge")[choice] for choice in choices]


def _format_box(box: NDArray[np.float64]) -> str:
    x_min, y_min, x_max, y_max = (f"{value:.6g}" for value in box)
    return f"x {x_min} to {x_max}, y {y_min} to {y_max}"


def _box_areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float64)

"""Labels against the image as it is displayed: the one place where boxes are judged, cut and turned into pixels.

An image all of whose boxes are dropped stays, as a background: that somebody looked at it is still true. Up to EDGE_PX
a box may reach over the edge without a word, because tools count pixels from 0 or from 1 and round; it is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchtag.config.dataset import OnProblem
from batchtag.datasets.base import Dataset, LabelledImage, Problem
from batchtag.datasets.image_check import Opened

EDGE_PX = 1.0

Boxes = NDArray[np.float64]


def as_displayed(dataset: Dataset, opened: Mapping[str, Opened], *, on_problem: OnProblem) -> Dataset:
    """The images that can be used, sizes and contents filled in, boxes in pixels and inside the image.

    What `on_problem` drops is left out; all problems are noted, also those that it does not forgive.
    """
    renamed = {one.image_uri for one in dataset.problems if one.kind == "wrong_image"}
    problems = list(dataset.problems)
    images = []
    for image in dataset.images:
        if image.uri in renamed and on_problem.wrong_image == "drop":
            continue
        one, its_problems = _image(image, opened[image.uri], dataset=dataset, on_problem=on_problem)
        problems += its_problems
        if one is not None:
            images.append(one)
    return replace(dataset, images=tuple(images), problems=tuple(problems), boxes_are_fractions=False)


def _image(
    image: LabelledImage, opened: Opened, *, dataset: Dataset, on_problem: OnProblem
) -> tuple[LabelledImage | None, list[Problem]]:
    if opened.problem:
        return None, [Problem(kind=opened.problem, uri=image.uri, detail=opened.detail)]
    problems = _size_problem(image, opened)
    if problems and on_problem.wrong_size == "drop":
        return None, problems
    seen = replace(image, width=opened.width, height=opened.height, content_hash=opened.content_hash)
    if not len(seen.boxes_xyxy):
        return seen, problems
    if dataset.boxes_are_fractions:
        boxes = seen.boxes_xyxy * np.array([seen.width, seen.height] * 2, np.float64)
        seen = replace(seen, boxes_xyxy=boxes, areas=_areas(boxes))
    fitted, box_problems = _fitted(seen, labels=dataset.labels, on_problem=on_problem)
    return fitted, [*problems, *box_problems]


def _size_problem(image: LabelledImage, opened: Opened) -> list[Problem]:
    said, shown = (image.width, image.height), (opened.width, opened.height)
    if 0 in said or said == shown:
        return []
    detail = f"is displayed at {shown[0]} x {shown[1]} pixels, and its annotations say {said[0]} x {said[1]}"
    if said == shown[::-1] and opened.orientation >= 5:
        detail += (
            f". It is stored turned (EXIF orientation {opened.orientation}) and was labelled as stored; boxes are read "
            "in the displayed image: turn its pixels and remove the EXIF mark, as they were labelled"
        )
    return [Problem(kind="wrong_size", uri=image.uri, detail=detail)]


def _fitted(
    image: LabelledImage, *, labels: Sequence[str], on_problem: OnProblem
) -> tuple[LabelledImage, list[Problem]]:
    """The image with its boxes inside it, without those that are dropped."""
    boxes, width, height = image.boxes_xyxy, image.width, image.height
    kinds = _kinds(boxes, width, height)
    problems = [
        Problem(
            kind=kind,
            uri=image.uri,
            detail=f"box {number} ({labels[label_id]!r}) {_WORDS[kind]}: {_said(box)}, in {width} x {height} pixels",
        )
        for number, (kind, box, label_id) in enumerate(zip(kinds, boxes, image.label_ids, strict=True), 1)
        if kind
    ]
    dropped = {"zero_area", "outside"} | ({"over_edge"} if on_problem.over_edge == "drop" else set())
    kept = np.array([kind not in dropped for kind in kinds], np.bool_)
    cut = boxes[kept].clip(0.0, np.array([width, height] * 2, np.float64))
    # an area that was the box's follows it; one of a segmentation stays what it is
    is_of_box = np.isclose(image.areas[kept], _areas(boxes[kept]))
    fitted = replace(
        image,
        label_ids=image.label_ids[kept],
        boxes_xyxy=cut,
        areas=np.where(is_of_box & (cut != boxes[kept]).any(axis=1), _areas(cut), image.areas[kept]),
        is_crowd=image.is_crowd[kept],
    )
    return fitted, problems


_WORDS = {
    "zero_area": "has no area",
    "outside": "lies outside the image",
    "over_edge": "reaches over the edge of the image",
}


def _kinds(boxes: Boxes, width: int, height: int) -> list[str]:
    """What is wrong with each box, "" if nothing."""
    x_min, y_min, x_max, y_max = boxes.T
    has_no_area = (x_max <= x_min) | (y_max <= y_min)
    is_outside = (x_max <= 0) | (y_max <= 0) | (x_min >= width) | (y_min >= height)
    over = np.maximum.reduce([-x_min, -y_min, x_max - width, y_max - height]) > EDGE_PX
    which = np.select([has_no_area, is_outside, over], [1, 2, 3], 0)
    return [("", "zero_area", "outside", "over_edge")[number] for number in which]


def _said(box: NDArray[np.float64]) -> str:
    x_min, y_min, x_max, y_max = (f"{value:.6g}" for value in box)
    return f"x {x_min} to {x_max}, y {y_min} to {y_max}"


def _areas(boxes: Boxes) -> NDArray[np.float64]:
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float64)

"""The assignment of detections to true objects at IoU 0.5, for metrics that need single detections and not a mean.

The rule is COCO's greedy one (pycocotools, `COCOeval.evaluateImg`, area "all"), but without its limit to the best 100
detections per class and image, because a reader of the tables sees all of them. It is implemented here because
faster-coco-eval returns matches only mixed over all IoUs; the tests compare it with that library's precision-recall
curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics.detections import Detections

MIN_IOU = 0.5
"""The smallest IoU at which a detection is assigned to a true object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """All D detections and all G true objects of a data set, image by image in the order given.

    `images` (D,) and `true_images` (G,) are the number of the image. `true_rows` (D,) is the row of the true object to
    which a detection is assigned, and `detection_rows` (G,) the inverse; -1 for none. `is_ignored` (D,): assigned to a
    crowd, so neither correct nor wrong. `same_iou` and `same_true_rows` (D,) are the largest IoU with a true object of
    the detection's own class, crowds excluded, and the row of that object; `other_iou` and `other_true_rows` the same
    with another class; 0 and -1 if no object overlaps.
    """

    images: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    label_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    true_rows: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]
    same_iou: NDArray[np.float64]
    same_true_rows: NDArray[np.int64]
    other_iou: NDArray[np.float64]
    other_true_rows: NDArray[np.int64]
    true_images: NDArray[np.int64]
    true_boxes_xyxy: NDArray[np.float64]
    true_label_ids: NDArray[np.int64]
    true_areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    detection_rows: NDArray[np.int64]

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """(D,) whether a detection is assigned to a single true object."""
        return (self.true_rows >= 0) & ~self.is_ignored


def match_detections(ground_truth: Sequence[LabelledImage], detections: Sequence[Detections]) -> Matches:
    """Assign the detections of every image to its true objects. `ground_truth[i]` and `detections[i]` are one image."""
    num_true = [len(image.boxes_xyxy) for image in ground_truth]
    first_rows = [0, *np.cumsum(num_true).tolist()][: len(ground_truth)]
    by_image = [_match_image(*image) for image in zip(ground_truth, detections, first_rows, strict=True)]
    true_rows = _concatenate_ids(image.true_rows for image in by_image)
    is_crowd = np.concatenate([np.zeros(0, np.bool_), *(image.is_crowd for image in ground_truth)])
    is_ignored = np.zeros(len(true_rows), np.bool_)
    is_ignored[true_rows >= 0] = is_crowd[true_rows[true_rows >= 0]]
    is_correct = (true_rows >= 0) & ~is_ignored
    detection_rows = np.full(len(is_crowd), -1, np.int64)
    detection_rows[true_rows[is_correct]] = np.flatnonzero(is_correct)
    return Matches(
        images=np.repeat(np.arange(len(detections)), [len(image.scores) for image in detections]),
        boxes_xyxy=_concatenate_boxes(image.boxes_xyxy for image in detections),
        label_ids=_concatenate_ids(image.label_ids for image in detections),
        scores=_concatenate_floats(image.scores for image in detections),
        true_rows=true_rows,
        is_ignored=is_ignored,
        same_iou=_concatenate_floats(image.same_iou for image in by_image),
        same_true_rows=_concatenate_ids(image.same_true_rows for image in by_image),
        other_iou=_concatenate_floats(image.other_iou for image in by_image),
        other_true_rows=_concatenate_ids(image.other_true_rows for image in by_image),
        true_images=np.repeat(np.arange(len(ground_truth)), num_true),
        true_boxes_xyxy=_concatenate_boxes(image.boxes_xyxy for image in ground_truth),
        true_label_ids=_concatenate_ids(image.label_ids for image in ground_truth),
        true_areas=_concatenate_floats(image.areas for image in ground_truth),
        is_crowd=is_crowd,
        detection_rows=detection_rows,
    )


def _concatenate_ids(arrays: Iterable[NDArray[np.integer]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *arrays]).astype(np.int64)


def _concatenate_floats(arrays: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0, np.float64), *arrays])


def _concatenate_boxes(arrays: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, 4), np.float64), *arrays])


@dataclass(frozen=True, kw_only=True, slots=True)
class _ImageMatches:
    """The columns of `Matches` that are computed image by image, (M,) each."""

    true_rows: NDArray[np.int64]
    same_iou: NDArray[np.float64]
    same_true_rows: NDArray[np.int64]
    other_iou: NDArray[np.float64]
    other_true_rows: NDArray[np.int64]


def _match_image(image: LabelledImage, detections: Detections, first_row: int) -> _ImageMatches:
    """Match one image. `first_row` is the row of its first true object among those of all images."""
    num_detections = len(detections.scores)
    if not num_detections or not len(image.boxes_xyxy):
        none, zero = np.full(num_detections, -1, np.int64), np.zeros(num_detections)
        return _ImageMatches(true_rows=none, same_iou=zero, same_true_rows=none, other_iou=zero, other_true_rows=none)
    ious = box_ious(detections.boxes_xyxy.astype(np.float64), image.boxes_xyxy, is_crowd=image.is_crowd)
    is_same = detections.label_ids[:, None] == image.label_ids[None, :]
    assigned = _assign(np.where(is_same, ious, 0), detections.scores, image.is_crowd)
    same_iou, same_true_rows = _find_largest(np.where(is_same & ~image.is_crowd, ious, 0), first_row)
    other_iou, other_true_rows = _find_largest(np.where(~is_same & ~image.is_crowd, ious, 0), first_row)
    return _ImageMatches(
        true_rows=np.where(assigned >= 0, assigned + first_row, -1),
        same_iou=same_iou,
        same_true_rows=same_true_rows,
        other_iou=other_iou,
        other_true_rows=other_true_rows,
    )


def box_ious(
    boxes_xyxy: NDArray[np.float64], true_boxes_xyxy: NDArray[np.float64], *, is_crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the (M, N) intersection over union; for a crowd over the detection's own area, as in COCO.

    0 for empty boxes.
    """
    top_left = np.maximum(boxes_xyxy[:, None, :2], true_boxes_xyxy[None, :, :2])
    bottom_right = np.minimum(boxes_xyxy[:, None, 2:], true_boxes_xyxy[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)[:, None]
    true_area = (true_boxes_xyxy[:, 2:] - true_boxes_xyxy[:, :2]).prod(axis=1)[None, :]
    union = np.where(is_crowd, area, area + true_area - shared)
    ious: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return ious


def _assign(ious: NDArray[np.float64], scores: NDArray[np.floating], is_crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (M,) the column to which each detection is assigned, or -1; `ious` (M, N) is 0 where the classes differ.

    The detection with the highest score chooses first; equal scores choose in the order given. It takes the free true
    object of largest IoU, the last one among equal IoUs. It takes a crowd only if no single object is free; a crowd
    stays free for the next detection.
    """
    assigned = np.full(len(ious), -1, np.int64)
    order = np.argsort(-scores, kind="stable")
    rows, columns = np.nonzero(ious[order] >= MIN_IOU)
    candidates = zip(rows.tolist(), columns.tolist(), ious[order[rows], columns].tolist(), strict=True)
    crowd = is_crowd.tolist()
    taken: set[int] = set()
    for row, group in groupby(candidates, key=itemgetter(0)):
        free = [(not crowd[column], iou, column) for _, column, iou in group if column not in taken]
        if free:
            is_single, _, column = max(free)
            assigned[order[row]] = column
            if is_single:
                taken.add(column)
    return assigned


def _find_largest(ious: NDArray[np.float64], first_row: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return for each detection the largest IoU and the row of the true object it belongs to, or 0 and -1."""
    columns = ious.argmax(axis=1)
    largest = ious[np.arange(len(ious)), columns]
    return largest, np.where(largest > 0, columns + first_row, -1)

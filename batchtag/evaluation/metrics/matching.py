"""Which finding is which true object at IoU 0.5, for whatever needs single findings rather than a mean.

COCO's own greedy rule (pycocotools, `COCOeval.evaluateImg`, area "all"), but without its limit to the best 100 findings
per class and image: a reader of the tables sees them all. Written out, because the kept library gives matches only
mixed over all IoUs; the tests hold it against the library's precision-recall curve.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """All D findings and all G true objects of a data set, image by image in the order given.

    `images` (D,) and `true_images` (G,) say of which image; `ground_truth` (D,) is the row of the true object a finding was
    matched to and `finder` (G,) the inverse, -1 for none. `is_ignored` (D,): matched to a crowd, so neither right nor
    wrong. `same_iou` and `same_ground_truth` (D,) are the largest IoU with a true object (no crowd) of the finding's own class
    and its row, `other_iou` and `other_ground_truth` with one of another class; 0 and -1 where there is none.
    """

    images: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    label_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    ground_truth: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]
    same_iou: NDArray[np.float64]
    same_ground_truth: NDArray[np.int64]
    other_iou: NDArray[np.float64]
    other_ground_truth: NDArray[np.int64]
    true_images: NDArray[np.int64]
    true_boxes_xyxy: NDArray[np.float64]
    true_label_ids: NDArray[np.int64]
    true_areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    finder: NDArray[np.int64]

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """(D,) whether a finding is a true object, and the first to be so."""
        return (self.ground_truth >= 0) & ~self.is_ignored


def match(ground_truth: Sequence[LabelledImage], found: Sequence[Detections]) -> Matches:
    """`truth[i]` and `found[i]` are of the same image."""
    num_true = [len(each.boxes_xyxy) for each in ground_truth]
    firsts = [0, *np.cumsum(num_true).tolist()][: len(ground_truth)]
    images = [_match_one(*of_one) for of_one in zip(ground_truth, found, firsts, strict=True)]
    matched = _ids(each.ground_truth for each in images)
    is_crowd = np.concatenate([np.zeros(0, np.bool_), *(each.is_crowd for each in ground_truth)])
    is_ignored = np.zeros(len(matched), np.bool_)
    is_ignored[matched >= 0] = is_crowd[matched[matched >= 0]]
    is_right = (matched >= 0) & ~is_ignored
    finder = np.full(len(is_crowd), -1, np.int64)
    finder[matched[is_right]] = np.flatnonzero(is_right)
    return Matches(
        images=np.repeat(np.arange(len(found)), [len(each.scores) for each in found]),
        boxes_xyxy=_boxes(each.boxes_xyxy for each in found),
        label_ids=_ids(each.label_ids for each in found),
        scores=_numbers(each.scores for each in found),
        ground_truth=matched,
        is_ignored=is_ignored,
        same_iou=_numbers(each.same_iou for each in images),
        same_ground_truth=_ids(each.same_ground_truth for each in images),
        other_iou=_numbers(each.other_iou for each in images),
        other_ground_truth=_ids(each.other_ground_truth for each in images),
        true_images=np.repeat(np.arange(len(ground_truth)), num_true),
        true_boxes_xyxy=_boxes(each.boxes_xyxy for each in ground_truth),
        true_label_ids=_ids(each.label_ids for each in ground_truth),
        true_areas=_numbers(each.areas for each in ground_truth),
        is_crowd=is_crowd,
        finder=finder,
    )


def _ids(arrays: Iterable[NDArray[np.integer]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *arrays]).astype(np.int64)


def _numbers(arrays: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0, np.float64), *arrays])


def _boxes(arrays: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, 4), np.float64), *arrays])


@dataclass(frozen=True, kw_only=True, slots=True)
class _OneImage:
    """The columns of `Matches` that are found image by image, (M,) each."""

    ground_truth: NDArray[np.int64]
    same_iou: NDArray[np.float64]
    same_ground_truth: NDArray[np.int64]
    other_iou: NDArray[np.float64]
    other_ground_truth: NDArray[np.int64]


def _match_one(ground_truth: LabelledImage, found: Detections, first_true: int) -> _OneImage:
    num_found = len(found.scores)
    if not num_found or not len(ground_truth.boxes_xyxy):
        none, zero = np.full(num_found, -1, np.int64), np.zeros(num_found)
        return _OneImage(
            ground_truth=none, same_iou=zero, same_ground_truth=none, other_iou=zero, other_ground_truth=none
        )
    ious = box_ious(found.boxes_xyxy.astype(np.float64), ground_truth.boxes_xyxy, is_crowd=ground_truth.is_crowd)
    is_same = found.label_ids[:, None] == ground_truth.label_ids[None, :]
    matched = _assign(np.where(is_same, ious, 0), found.scores, ground_truth.is_crowd)
    same_iou, same_ground_truth = _largest(np.where(is_same & ~ground_truth.is_crowd, ious, 0), first_true)
    other_iou, other_ground_truth = _largest(np.where(~is_same & ~ground_truth.is_crowd, ious, 0), first_true)
    return _OneImage(
        ground_truth=np.where(matched >= 0, matched + first_true, -1),
        same_iou=same_iou,
        same_ground_truth=same_ground_truth,
        other_iou=other_iou,
        other_ground_truth=other_ground_truth,
    )


def box_ious(
    boxes_xyxy: NDArray[np.float64], true_boxes_xyxy: NDArray[np.float64], *, is_crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(M, N) intersection over union; for a crowd over the finding's own area, as COCO has it. 0 for empty boxes."""
    top_left = np.maximum(boxes_xyxy[:, None, :2], true_boxes_xyxy[None, :, :2])
    bottom_right = np.minimum(boxes_xyxy[:, None, 2:], true_boxes_xyxy[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)[:, None]
    true_area = (true_boxes_xyxy[:, 2:] - true_boxes_xyxy[:, :2]).prod(axis=1)[None, :]
    union = np.where(is_crowd, area, area + true_area - shared)
    ious: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return ious


def _assign(ious: NDArray[np.float64], scores: NDArray[np.floating], is_crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(M,) the column each finding is matched to, or -1; `ious` (M, N) is 0 where the classes differ.

    The highest score chooses first (equal ones in the order given): the free true object of largest IoU, of equal ones
    the last, and a crowd, which is never used up, only if there is no other.
    """
    matched = np.full(len(ious), -1, np.int64)
    order = np.argsort(-scores, kind="stable")
    rows, columns = np.nonzero(ious[order] >= MIN_IOU)
    candidates = zip(rows.tolist(), columns.tolist(), ious[order[rows], columns].tolist(), strict=True)
    crowd = is_crowd.tolist()
    taken: set[int] = set()
    for row, group in groupby(candidates, key=itemgetter(0)):
        free = [(not crowd[column], iou, column) for _, column, iou in group if column not in taken]
        if free:
            is_single, _, column = max(free)
            matched[order[row]] = column
            if is_single:
                taken.add(column)
    return matched


def _largest(ious: NDArray[np.float64], first_true: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Per row the largest IoU and the true object it is with, or 0 and -1."""
    columns = ious.argmax(axis=1)
    largest = ious[np.arange(len(ious)), columns]
    return largest, np.where(largest > 0, columns + first_true, -1)

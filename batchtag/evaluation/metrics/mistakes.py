"""What a detector gets wrong, by kind, the worst first.

Judged as a reader with the recommended thresholds sees it: a finding below the threshold of its class is not shown, so
it is no mistake, and the object it would have been is missed. (A class without a threshold shows everything.)
The kinds are those of TIDE (Bolya et al., A General Toolbox for Identifying Object Detection Errors, ECCV 2020, section
2.2), decided in the order of its published code, with its limits: right from IoU 0.5, background below IoU 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchtag.evaluation.metrics.matching import MIN_IOU, Matches, box_ious

FALSE_KINDS = ("wrong_class", "wrong_place", "wrong_both", "duplicate", "background")
MISSED = "missed"
BACKGROUND_IOU = 0.1

Box = tuple[float, float, float, float]
NO_BOX: Box = (math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionMistake:
    """One thing that is wrong on image number `image` (from 0, as given).

    `wrong_class`: on a true object (IoU >= 0.5) of another class. `wrong_place`: 0.1 <= IoU < 0.5 with one of its own
    class. `wrong_both`: that with one of another class. `duplicate`: its object was found already, with a higher score.
    `background`: nothing there. `missed`: an object not found, and of which no wrong_class or wrong_place tells.
    `label`, `box_xyxy` and `score` are what was found, `true_label`, `true_box_xyxy` and `iou` the object concerned
    ("", nan and 0 for background). For `missed`, `score` and `box_xyxy` are of the finding that was right but below the
    threshold (0 and nan if there is none) and `label` is the true one.
    """

    kind: str
    image: int
    label: str
    score: float
    box_xyxy: Box
    true_label: str
    true_box_xyxy: Box
    iou: float


def detection_mistakes(
    labels: Sequence[str], matches: Matches, thresholds: NDArray[np.float64], *, worst: int
) -> tuple[dict[str, int], tuple[DetectionMistake, ...]]:
    """How many there are of each kind, and the `worst` of each: the most confident, and the largest missed.

    `thresholds` (C,) is nan for a class without one. Ties are in the order of the data.
    """
    is_shown = matches.scores >= np.nan_to_num(thresholds, nan=0.0)[matches.label_ids]
    rows = np.flatnonzero(is_shown & ~matches.is_right & ~matches.is_ignored)
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    kinds, objects = _false_kinds(matches, rows)
    missed = _missed(matches, is_shown, told=objects[np.isin(kinds, ["wrong_class", "wrong_place"])])
    counts = {kind: int((kinds == kind).sum()) for kind in FALSE_KINDS} | {MISSED: len(missed)}
    listed = []
    for kind in FALSE_KINDS:
        of_kind = np.flatnonzero(kinds == kind)[:worst]
        pairs = zip(rows[of_kind].tolist(), objects[of_kind].tolist(), strict=True)
        listed += [_mistake(labels, matches, kind, row=row, true_row=true_row) for row, true_row in pairs]
    for true_row in missed[:worst].tolist():
        listed.append(_mistake(labels, matches, MISSED, row=int(matches.finder[true_row]), true_row=true_row))
    return counts, tuple(listed)


def _false_kinds(matches: Matches, rows: NDArray[np.int64]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The kind of each finding that is false, and the true object it is about (-1 for background)."""
    same, other = matches.same_iou[rows], matches.other_iou[rows]
    of_same, of_other = matches.same_ground_truth[rows], matches.other_ground_truth[rows]
    tests = [
        ("wrong_place", (same >= BACKGROUND_IOU) & (same < MIN_IOU), of_same),
        ("wrong_class", other >= MIN_IOU, of_other),
        ("duplicate", same >= MIN_IOU, of_same),
        ("wrong_both", other >= BACKGROUND_IOU, of_other),
    ]
    conditions = [condition for _, condition, _ in tests]
    kinds = np.select(conditions, [kind for kind, _, _ in tests], default="background")
    return kinds, np.select(conditions, [about for _, _, about in tests], default=-1)


def _missed(matches: Matches, is_shown: NDArray[np.bool_], *, told: NDArray[np.int64]) -> NDArray[np.int64]:
    """The true objects that no shown finding is, without those of which another mistake tells; the largest first."""
    is_fine = matches.is_crowd.copy()
    was_found = np.flatnonzero(matches.finder >= 0)
    is_fine[was_found] = is_shown[matches.finder[was_found]]
    is_fine[told] = True
    rows = np.flatnonzero(~is_fine)
    return rows[np.argsort(-matches.true_areas[rows], kind="stable")]


def _mistake(labels: Sequence[str], matches: Matches, kind: str, *, row: int, true_row: int) -> DetectionMistake:
    """The record of one; `row` or `true_row` is -1 where nothing was found, or nothing is there."""
    found, there = row >= 0, true_row >= 0
    true_label = labels[matches.true_label_ids[true_row]] if there else ""
    return DetectionMistake(
        kind=kind,
        image=int(matches.images[row] if found else matches.true_images[true_row]),
        label=labels[matches.label_ids[row]] if found else true_label,
        score=float(matches.scores[row]) if found else 0.0,
        box_xyxy=_box(matches.boxes_xyxy, row),
        true_label=true_label,
        true_box_xyxy=_box(matches.true_boxes_xyxy, true_row),
        iou=_iou(matches, row, true_row),
    )


def _box(boxes_xyxy: NDArray[np.float64], row: int) -> Box:
    if row < 0:
        return NO_BOX
    x_min, y_min, x_max, y_max = boxes_xyxy[row].tolist()
    return x_min, y_min, x_max, y_max


def _iou(matches: Matches, row: int, true_row: int) -> float:
    if row < 0 or true_row < 0:
        return 0.0
    pair = matches.boxes_xyxy[[row]], matches.true_boxes_xyxy[[true_row]]
    return float(box_ious(*pair, is_crowd=np.zeros(1, np.bool_))[0, 0])

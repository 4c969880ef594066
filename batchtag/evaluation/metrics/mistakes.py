"""The mistakes of a detector, by kind, the worst first.

They are those that a reader with the recommended thresholds sees: a detection below the threshold of its class is not
shown, so it is not a mistake, and its object is missed. (A class without a threshold shows everything.) The kinds are
those of TIDE (Bolya et al., A General Toolbox for Identifying Object Detection Errors, ECCV 2020, section 2.2), decided
in the order of its published code and with its limits: correct from IoU 0.5, background below IoU 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchtag.evaluation.metrics.matching import MIN_IOU, Matches, box_ious

FALSE_KINDS = ("wrong_class", "wrong_place", "wrong_both", "duplicate", "background")
"""Kinds of mistakes that are detections; `MISSED` is an object without a detection."""
MISSED = "missed"
BACKGROUND_IOU = 0.1
"""A detection that overlaps every true object by less than this lies on the background."""

Box = tuple[float, float, float, float]
NO_BOX: Box = (math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionMistake:
    """One mistake on image number `image` (from 0, in the order given).

    `kind` is one of:
    - `wrong_class`: on a true object (IoU >= 0.5) of another class.
    - `wrong_place`: 0.1 <= IoU < 0.5 with an object of its own class.
    - `wrong_both`: 0.1 <= IoU < 0.5 with an object of another class.
    - `duplicate`: another detection with a higher score is assigned to the same object.
    - `background`: no true object overlaps.
    - `missed`: an object without a detection, and without a wrong_class or wrong_place that explains it.

    `label`, `box_xyxy` and `score` describe the detection; `true_label`, `true_box_xyxy` and `iou` the object concerned
    ("", nan and 0 for background). For `missed`, `score` and `box_xyxy` are those of the correct detection below the
    threshold (0 and nan if there is none), and `label` is the true one. Boxes are in pixels of the displayed image.
    """

    kind: str
    image: int
    label: str
    score: float
    box_xyxy: Box
    true_label: str
    true_box_xyxy: Box
    iou: float


def find_mistakes(
    labels: Sequence[str], matches: Matches, thresholds: NDArray[np.float64], *, worst: int
) -> tuple[dict[str, int], tuple[DetectionMistake, ...]]:
    """Return the number of mistakes of each kind, and the `worst` of each: the most confident, and the largest missed.

    `thresholds` (C,) is nan for a class without a threshold. Ties are in the order of the data.
    """
    is_shown = matches.scores >= np.nan_to_num(thresholds, nan=0.0)[matches.label_ids]
    rows = np.flatnonzero(is_shown & ~matches.is_correct & ~matches.is_ignored)
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    kinds, true_rows = _classify_false(matches, rows)
    missed = _find_missed(matches, is_shown, explained=true_rows[np.isin(kinds, ["wrong_class", "wrong_place"])])
    counts = {kind: int((kinds == kind).sum()) for kind in FALSE_KINDS} | {MISSED: len(missed)}
    mistakes = []
    for kind in FALSE_KINDS:
        of_kind = np.flatnonzero(kinds == kind)[:worst]
        pairs = zip(rows[of_kind].tolist(), true_rows[of_kind].tolist(), strict=True)
        mistakes += [_make_mistake(labels, matches, kind, row=row, true_row=true_row) for row, true_row in pairs]
    for true_row in missed[:worst].tolist():
        row = int(matches.detection_rows[true_row])
        mistakes.append(_make_mistake(labels, matches, MISSED, row=row, true_row=true_row))
    return counts, tuple(mistakes)


def _classify_false(matches: Matches, rows: NDArray[np.int64]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the kind of each false detection, and the row of the true object concerned (-1 for background)."""
    same, other = matches.same_iou[rows], matches.other_iou[rows]
    same_true_rows, other_true_rows = matches.same_true_rows[rows], matches.other_true_rows[rows]
    tests = [
        ("wrong_place", (same >= BACKGROUND_IOU) & (same < MIN_IOU), same_true_rows),
        ("wrong_class", other >= MIN_IOU, other_true_rows),
        ("duplicate", same >= MIN_IOU, same_true_rows),
        ("wrong_both", other >= BACKGROUND_IOU, other_true_rows),
    ]
    conditions = [condition for _, condition, _ in tests]
    kinds = np.select(conditions, [kind for kind, _, _ in tests], default="background")
    return kinds, np.select(conditions, [true_rows for _, _, true_rows in tests], default=-1)


def _find_missed(matches: Matches, is_shown: NDArray[np.bool_], *, explained: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of the true objects without a shown detection, the largest first.

    `explained` are rows of objects that another mistake already concerns; they are left out.
    """
    is_fine = matches.is_crowd.copy()
    detected = np.flatnonzero(matches.detection_rows >= 0)
    is_fine[detected] = is_shown[matches.detection_rows[detected]]
    is_fine[explained] = True
    rows = np.flatnonzero(~is_fine)
    return rows[np.argsort(-matches.true_areas[rows], kind="stable")]


def _make_mistake(labels: Sequence[str], matches: Matches, kind: str, *, row: int, true_row: int) -> DetectionMistake:
    """Return one record. `row` is -1 without a detection, `true_row` is -1 without a true object."""
    has_detection, has_object = row >= 0, true_row >= 0
    true_label = labels[matches.true_label_ids[true_row]] if has_object else ""
    return DetectionMistake(
        kind=kind,
        image=int(matches.images[row] if has_detection else matches.true_images[true_row]),
        label=labels[matches.label_ids[row]] if has_detection else true_label,
        score=float(matches.scores[row]) if has_detection else 0.0,
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

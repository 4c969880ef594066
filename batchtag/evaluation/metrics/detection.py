"""How good a detector is: COCO's figures, per class, calibration, mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics.calibration import Calibration, calibration
from batchtag.evaluation.metrics.coco import RECALLS, CocoCounts, coco_counts
from batchtag.evaluation.metrics.detections import Detections
from batchtag.evaluation.metrics.matching import Matches, match
from batchtag.evaluation.metrics.mistakes import DetectionMistake, detection_mistakes
from batchtag.evaluation.metrics.thresholds import Threshold, best_threshold
from batchtag.evaluation.metrics.to_json import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """COCO's curve at IoU 0.5, each array (101,) float64.

    `recall` is 0 to 1; `precision` the best that is had at that recall or above, 0 where it is not reached; `scores`
    the threshold that just reaches it, 0 likewise. A class without an example has nan in both.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionLabel:
    """One class. `num_true` counts no crowds; AP, AP50 and AR100 are nan without a true object.

    `threshold` and its precision, recall and F1 are at IoU 0.5, over everything that was found; a finding matched to a
    crowd counts nowhere.
    """

    label: str
    num_true: int
    num_found: int
    AP: float
    AP50: float
    AR100: float
    curve: PrecisionRecall
    threshold: Threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionMetrics:
    """How good a detector is on `num_images` images.

    `summary` has COCO's AP, AP50, AP75, APsmall, APmedium, APlarge, AR1, AR10, AR100, ARsmall, ARmedium, ARlarge, nan
    where there is nothing to measure. `per_class` is in the order of the labels. `calibration` is of every finding:
    right means matched at IoU 0.5. `mistake_counts` counts all, `mistakes` lists the worst of each kind.
    """

    num_images: int
    num_true: int
    num_found: int
    summary: dict[str, float]
    per_class: tuple[DetectionLabel, ...]
    calibration: Calibration
    mistake_counts: dict[str, int]
    mistakes: tuple[DetectionMistake, ...]

    def thresholds(self) -> dict[str, float]:
        """From which score to believe each class; one without an example, or never found rightly, is absent."""
        found = {each.label: each.threshold.score for each in self.per_class}
        return {label: score for label, score in found.items() if not math.isnan(score)}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields; nan is None."""
        values: dict[str, Any] = plain(self)
        return values


def detection_metrics(
    labels: Sequence[str], ground_truth: Sequence[LabelledImage], found: Sequence[Detections], *, worst: int = 20
) -> DetectionMetrics:
    """`truth[i]` and `found[i]` are of the same image, boxes of both in pixels of it as displayed.

    `worst` is how many mistakes of each kind to list. Raises ValueError with everything that does not fit.
    """
    _check(labels, ground_truth, found)
    matches = match(ground_truth, found)
    counts = coco_counts(matches, num_labels=len(labels))
    per_class = tuple(_label(label, label_id, matches, counts) for label_id, label in enumerate(labels))
    thresholds = np.array([each.threshold.score for each in per_class], np.float64)
    mistake_counts, mistakes = detection_mistakes(labels, matches, thresholds, worst=worst)
    counted = ~matches.is_ignored
    return DetectionMetrics(
        num_images=len(ground_truth),
        num_true=int((~matches.is_crowd).sum()),
        num_found=len(matches.scores),
        summary=counts.summary(),
        per_class=per_class,
        calibration=calibration(matches.scores[counted], matches.is_right[counted]),
        mistake_counts=mistake_counts,
        mistakes=mistakes,
    )


def _check(labels: Sequence[str], ground_truth: Sequence[LabelledImage], found: Sequence[Detections]) -> None:
    problems = []
    if len(ground_truth) != len(found):
        problems.append(f"truth and found must be of the same images, got {len(ground_truth)} and {len(found)}")
    for name, sequence in (("truth", ground_truth), ("found", found)):
        strange = {int(label_id) for each in sequence for label_id in each.label_ids} - set(range(len(labels)))
        if strange:
            problems.append(f"label_ids of {name} must lie in 0..{len(labels) - 1}, got {sorted(strange)[:5]}")
    bare = [each.uri for each in ground_truth if len(each.label_ids) != len(each.boxes_xyxy)]
    if bare:
        problems.append(f"truth must have a box for every label; {len(bare)} have none, such as {bare[0]!r}")
    if problems:
        raise ValueError("; ".join(problems))


def _label(label: str, label_id: int, matches: Matches, counts: CocoCounts) -> DetectionLabel:
    is_found = matches.label_ids == label_id
    counted = is_found & ~matches.is_ignored
    num_true = int(((matches.true_label_ids == label_id) & ~matches.is_crowd).sum())
    return DetectionLabel(
        label=label,
        num_true=num_true,
        num_found=int(is_found.sum()),
        AP=counts.mean_precision(label_id=label_id),
        AP50=counts.mean_precision(iou=0, label_id=label_id),
        AR100=counts.mean_recall(label_id=label_id),
        curve=PrecisionRecall(
            recall=RECALLS,
            precision=counts.precision[0, :, label_id, 0],
            scores=counts.scores[:, label_id],
        ),
        threshold=best_threshold(matches.scores[counted], matches.is_right[counted], num_true),
    )

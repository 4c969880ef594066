"""The metrics of a detector: COCO's figures, metrics of each class, calibration, and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics.calibration import Calibration, measure_calibration
from batchtag.evaluation.metrics.coco import RECALLS, CocoCounts, coco_counts
from batchtag.evaluation.metrics.detections import Detections
from batchtag.evaluation.metrics.matching import Matches, match_detections
from batchtag.evaluation.metrics.mistakes import DetectionMistake, find_mistakes
from batchtag.evaluation.metrics.thresholds import Threshold, best_threshold, known_scores
from batchtag.evaluation.metrics.to_json import to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """COCO's precision-recall curve at IoU 0.5, each array (101,) float64.

    `recall` goes from 0 to 1. `precision` is the best one at that recall or above, and `scores` the threshold that just
    reaches that recall; both are 0 where the recall is not reached, and nan for a class without an example.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionLabel:
    """The metrics of one class. `num_true` excludes crowds; AP, AP50 and AR100 are nan without a true object.

    `threshold` and its precision, recall and F1 are at IoU 0.5, over all detections; a detection that is assigned to a
    crowd does not count.
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
    """The metrics of a detector on `num_images` images with `num_true` objects and `num_found` detections.

    `summary` has COCO's AP, AP50, AP75, APsmall, APmedium, APlarge, AR1, AR10, AR100, ARsmall, ARmedium, ARlarge, nan
    where there is nothing to measure. `per_class` is in the order of the labels. `calibration` is over all detections;
    a detection is correct if it is assigned to a true object at IoU 0.5. `mistake_counts` counts all mistakes by kind;
    `mistakes` has the worst of each kind.
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
        """Return the threshold of each class that has one; it needs an example and a correct detection."""
        return known_scores({each.label: each.threshold for each in self.per_class})

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values under the names of the fields; nan is None."""
        values: dict[str, Any] = to_json(self)
        return values


def detection_metrics(
    labels: Sequence[str], ground_truth: Sequence[LabelledImage], detections: Sequence[Detections], *, worst: int = 20
) -> DetectionMetrics:
    """Measure detections against the ground truth.

    `ground_truth[i]` and `detections[i]` are the same image; the boxes of both are in pixels of the displayed image.
    `worst` is the number of mistakes of each kind to list. Raises one ValueError with everything that does not fit.
    """
    _check_arguments(labels, ground_truth, detections)
    matches = match_detections(ground_truth, detections)
    counts = coco_counts(matches, num_labels=len(labels))
    per_class = tuple(_measure_label(label, label_id, matches, counts) for label_id, label in enumerate(labels))
    thresholds = np.array([label.threshold.score for label in per_class], np.float64)
    mistake_counts, mistakes = find_mistakes(labels, matches, thresholds, worst=worst)
    is_counted = ~matches.is_ignored
    return DetectionMetrics(
        num_images=len(ground_truth),
        num_true=int((~matches.is_crowd).sum()),
        num_found=len(matches.scores),
        summary=counts.summary(),
        per_class=per_class,
        calibration=measure_calibration(matches.scores[is_counted], matches.is_correct[is_counted]),
        mistake_counts=mistake_counts,
        mistakes=mistakes,
    )


def _check_arguments(
    labels: Sequence[str], ground_truth: Sequence[LabelledImage], detections: Sequence[Detections]
) -> None:
    problems = []
    if len(ground_truth) != len(detections):
        problems.append(
            f"ground_truth and detections must have the same images, got {len(ground_truth)} and {len(detections)}"
        )
    for name, images in (("ground_truth", ground_truth), ("detections", detections)):
        unknown = {int(label_id) for image in images for label_id in image.label_ids} - set(range(len(labels)))
        if unknown:
            problems.append(f"label_ids of {name} must lie in 0..{len(labels) - 1}, got {sorted(unknown)[:5]}")
    without_boxes = [image.uri for image in ground_truth if len(image.label_ids) != len(image.boxes_xyxy)]
    if without_boxes:
        problems.append(
            f"ground_truth must have a box for every label; {len(without_boxes)} images have labels without one, "
            f"such as {without_boxes[0]!r}"
        )
    if problems:
        raise ValueError("; ".join(problems))


def _measure_label(label: str, label_id: int, matches: Matches, counts: CocoCounts) -> DetectionLabel:
    is_of_label = matches.label_ids == label_id
    is_counted = is_of_label & ~matches.is_ignored
    num_true = int(((matches.true_label_ids == label_id) & ~matches.is_crowd).sum())
    return DetectionLabel(
        label=label,
        num_true=num_true,
        num_found=int(is_of_label.sum()),
        AP=counts.mean_precision(label_id=label_id),
        AP50=counts.mean_precision(iou_index=0, label_id=label_id),
        AR100=counts.mean_recall(label_id=label_id),
        curve=PrecisionRecall(
            recall=RECALLS,
            precision=counts.precision[0, :, label_id, 0],
            scores=counts.scores[:, label_id],
        ),
        threshold=best_threshold(matches.scores[is_counted], matches.is_correct[is_counted], num_true),
    )

"""COCO's precision and recall, counted by faster-coco-eval.

Chosen over pycocotools after trying both: every precision, recall and score is the same to 2e-16 on the reference files
and on random sets, and it is ten times faster (1,000 images, 80 classes, 46,000 findings: 0.8 s against 8.5 s on one
core) and prints nothing. It is run class by class, on the images that have the class: the same numbers bit for bit,
without its table of images times classes (1,000 of each: 1.6 s instead of 3.8 s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.evaluation.metrics.matching import Matches

SIZES = ("all", "small", "medium", "large")
MAX_FOUND = (1, 10, 100)
RECALLS = np.linspace(0, 1, 101)
NUM_IOUS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoCounts:
    """COCO's own arrays for C classes, nan where a class has no true object of that size.

    `precision` (10, 101, C, 4) float64: IoU 0.5 to 0.95, recall 0 to 1, class, size (all, small below 32 px squared,
    medium, large from 96 px squared), of the best 100 findings per image and class; `recall` (10, C, 4, 3), likewise,
    of the best 1, 10 and 100; `scores` (101, C), the score that reaches that recall at IoU 0.5.
    """

    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    recall: NDArray[np.float64]

    def mean_precision(
        self, *, iou: int | slice = slice(None), size: str = "all", label_id: int | None = None
    ) -> float:
        """AP over the classes that have an example, or of one class; nan if there is none. `iou` is an index."""
        classes = slice(None) if label_id is None else slice(label_id, label_id + 1)
        return _mean(self.precision[iou, :, classes, SIZES.index(size)])

    def mean_recall(self, *, max_found: int = 100, size: str = "all", label_id: int | None = None) -> float:
        """AR, likewise."""
        classes = slice(None) if label_id is None else slice(label_id, label_id + 1)
        return _mean(self.recall[:, classes, SIZES.index(size), MAX_FOUND.index(max_found)])

    def summary(self) -> dict[str, float]:
        """The twelve figures of COCO, in its order."""
        precisions = {
            "AP": self.mean_precision(),
            "AP50": self.mean_precision(iou=0),
            "AP75": self.mean_precision(iou=5),
            **{f"AP{size}": self.mean_precision(size=size) for size in SIZES[1:]},
        }
        recalls = {
            **{f"AR{most}": self.mean_recall(max_found=most) for most in MAX_FOUND},
            **{f"AR{size}": self.mean_recall(size=size) for size in SIZES[1:]},
        }
        return precisions | recalls


def _mean(values: NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def coco_counts(matches: Matches, *, num_labels: int) -> CocoCounts:
    """Only the boxes, labels, scores, areas and crowds of `matches` are used, not what it matched."""
    precision = np.full((NUM_IOUS, len(RECALLS), num_labels, len(SIZES)), np.nan)
    recall = np.full((NUM_IOUS, num_labels, len(SIZES), len(MAX_FOUND)), np.nan)
    scores = np.full((len(RECALLS), num_labels), np.nan)
    for label_id in np.unique(matches.true_label_ids[~matches.is_crowd]).tolist():
        counted = _evaluate(*_annotations(matches, label_id))
        precision[:, :, label_id] = counted["precision"][:, :, 0, :, -1]
        recall[:, label_id] = counted["recall"][:, 0]
        scores[:, label_id] = counted["scores"][0, :, 0, 0, -1]
    precision[precision < 0] = np.nan
    recall[recall < 0] = np.nan
    return CocoCounts(precision=precision, scores=scores, recall=recall)


def _annotations(matches: Matches, label_id: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The true objects and the findings of one class, as COCO's JSON has them; ids from 1: 0 is "unmatched" there."""
    true_rows = np.flatnonzero(matches.true_label_ids == label_id)
    rows = np.flatnonzero(matches.label_ids == label_id)
    ground_truth = _boxes(matches.true_images[true_rows], matches.true_boxes_xyxy[true_rows])
    areas, crowds = matches.true_areas[true_rows].tolist(), matches.is_crowd[true_rows].tolist()
    for annotation, area, is_crowd in zip(ground_truth, areas, crowds, strict=True):
        annotation |= {"area": area, "iscrowd": int(is_crowd)}
    found = _boxes(matches.images[rows], matches.boxes_xyxy[rows])
    for annotation, score in zip(found, matches.scores[rows].tolist(), strict=True):
        annotation |= {"area": annotation["bbox"][2] * annotation["bbox"][3], "iscrowd": 0, "score": score}
    return ground_truth, found


def _boxes(images: NDArray[np.int64], boxes_xyxy: NDArray[np.float64]) -> list[dict[str, Any]]:
    xywh = np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1).tolist()
    return [
        {"id": number, "image_id": image, "category_id": 1, "bbox": box}
        for number, (image, box) in enumerate(zip(images.tolist(), xywh, strict=True), start=1)
    ]


def _evaluate(
    ground_truth: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> dict[str, NDArray[np.float64]]:
    """The library's arrays for one class; -1 where there is nothing to count."""
    from faster_coco_eval import COCO, COCOeval_faster

    images = sorted({each["image_id"] for each in (*ground_truth, *found)})
    sides = []
    for listed in (ground_truth, found):
        side = COCO()
        side.dataset = {
            "images": [{"id": image} for image in images],
            "categories": [{"id": 1, "name": ""}],
            "annotations": list(listed),
        }
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval_faster(*sides, iouType="bbox")
    evaluation.evaluate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "scores", "recall")}

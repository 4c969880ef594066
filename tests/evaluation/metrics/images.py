"""Small labelled images and findings for the tests of the metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import Detections

Row = tuple[int, tuple[float, float, float, float]]
Hit = tuple[int, float, tuple[float, float, float, float]]


def true_image(*rows: Row, crowds: tuple[int, ...] = (), areas: list[float] | None = None) -> LabelledImage:
    """Rows of (label id, box); `crowds` are numbers of rows; areas are the boxes' unless given."""
    boxes = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
    return LabelledImage(
        uri="image.jpg",
        label_ids=np.array([label_id for label_id, _ in rows], np.int64),
        boxes_xyxy=boxes,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if areas is None else np.array(areas, np.float64),
        is_crowd=np.isin(np.arange(len(rows)), crowds),
    )


def found_image(*hits: Hit) -> Detections:
    """Hits of (label id, score, box)."""
    return Detections(
        boxes_xyxy=np.array([box for _, _, box in hits], np.float64).reshape(-1, 4),
        scores=np.array([score for _, score, _ in hits], np.float64),
        label_ids=np.array([label_id for label_id, _, _ in hits], np.int64),
    )


def random_case(
    seed: int, *, num_images: int = 8, num_labels: int = 3, most_true: int = 5, most_found: int = 8, crowds: bool = True
) -> tuple[list[LabelledImage], list[Detections]]:
    """Crowded little images with tied scores, equal boxes, crowds, areas that are not the box's, and empty ones."""
    random = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        corners = random.integers(0, 12, (n, 2)) * 10.0
        return np.concatenate([corners, corners + random.integers(1, 14, (n, 2)) * 10.0], axis=1)

    ground_truth, found = [], []
    for _ in range(num_images):
        n = int(random.integers(0, most_true + 1))
        true_boxes, true_ids = boxes(n), random.integers(0, num_labels, n)
        is_crowd = random.uniform(size=n) < (0.2 if crowds else 0)
        areas = np.prod(true_boxes[:, 2:] - true_boxes[:, :2], axis=1) * random.uniform(0.3, 1, n)
        ground_truth.append(
            LabelledImage(uri="", label_ids=true_ids, boxes_xyxy=true_boxes, areas=areas, is_crowd=is_crowd)
        )
        near = np.flatnonzero(random.uniform(size=n) < 0.8)
        m = int(random.integers(0, most_found + 1))
        found_boxes = np.concatenate([true_boxes[near] + random.integers(-1, 2, (len(near), 4)) * 5.0, boxes(m)])
        found_boxes[:, 2:] = np.maximum(found_boxes[:, 2:], found_boxes[:, :2])
        found_ids = np.concatenate([true_ids[near], random.integers(0, num_labels, m)])
        scores = random.integers(1, 11, len(found_ids)) / 10
        found.append(Detections(boxes_xyxy=found_boxes, scores=scores, label_ids=found_ids))
    return ground_truth, found

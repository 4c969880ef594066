"""Small labelled images and detections for the tests of the metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from batchtag.datasets.base import LabelledImage
from batchtag.evaluation.metrics import Detections

TrueObject = tuple[int, tuple[float, float, float, float]]
"""Label id and box."""
Detection = tuple[int, float, tuple[float, float, float, float]]
"""Label id, score and box."""


def true_image(*objects: TrueObject, crowds: tuple[int, ...] = (), areas: list[float] | None = None) -> LabelledImage:
    """Return the ground truth of an image. `crowds` are numbers of objects; by default areas are those of the boxes."""
    boxes = np.array([box for _, box in objects], np.float64).reshape(-1, 4)
    return LabelledImage(
        uri="image.jpg",
        label_ids=np.array([label_id for label_id, _ in objects], np.int64),
        boxes_xyxy=boxes,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if areas is None else np.array(areas, np.float64),
        is_crowd=np.isin(np.arange(len(objects)), crowds),
    )


def make_detections(*detections: Detection) -> Detections:
    """Return the detections of one image."""
    return Detections(
        boxes_xyxy=np.array([box for _, _, box in detections], np.float64).reshape(-1, 4),
        scores=np.array([score for _, score, _ in detections], np.float64),
        label_ids=np.array([label_id for label_id, _, _ in detections], np.int64),
    )


def random_case(
    seed: int, *, num_images: int = 8, num_labels: int = 3, max_true: int = 5, max_random: int = 8, crowds: bool = True
) -> tuple[list[LabelledImage], list[Detections]]:
    """Return random small images with equal scores, equal boxes, crowds, areas unlike the box's, and empty images."""
    random = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        corners = random.integers(0, 12, (n, 2)) * 10.0
        return np.concatenate([corners, corners + random.integers(1, 14, (n, 2)) * 10.0], axis=1)

    ground_truth, detections = [], []
    for _ in range(num_images):
        n = int(random.integers(0, max_true + 1))
        true_boxes, true_ids = boxes(n), random.integers(0, num_labels, n)
        is_crowd = random.uniform(size=n) < (0.2 if crowds else 0)
        areas = np.prod(true_boxes[:, 2:] - true_boxes[:, :2], axis=1) * random.uniform(0.3, 1, n)
        ground_truth.append(
            LabelledImage(uri="", label_ids=true_ids, boxes_xyxy=true_boxes, areas=areas, is_crowd=is_crowd)
        )
        near = np.flatnonzero(random.uniform(size=n) < 0.8)
        m = int(random.integers(0, max_random + 1))
        detected_boxes = np.concatenate([true_boxes[near] + random.integers(-1, 2, (len(near), 4)) * 5.0, boxes(m)])
        detected_boxes[:, 2:] = np.maximum(detected_boxes[:, 2:], detected_boxes[:, :2])
        detected_ids = np.concatenate([true_ids[near], random.integers(0, num_labels, m)])
        scores = random.integers(1, 11, len(detected_ids)) / 10
        detections.append(Detections(boxes_xyxy=detected_boxes, scores=scores, label_ids=detected_ids))
    return ground_truth, detections

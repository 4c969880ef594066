"""Comparison of the boxes of two detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Boxes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Labels (N,), scores (N,), and corners (N, 4) in pixels, best first."""


def assert_alike(ours: Boxes, theirs: Boxes, *, pixels: float = 0.5, score: float = 0.005) -> None:
    """Fail unless both have the same scores in the same order, and each box has an equal one of its own.

    Boxes are equal if label, score (within `score`) and corners (within `pixels`) are. Boxes with the same score may
    come in any order.
    """
    np.testing.assert_allclose(ours[1], theirs[1], atol=score)
    (labels, scores, boxes), (other_labels, other_scores, other_boxes) = ours, theirs
    is_equal = (
        (labels[:, None] == other_labels)
        & (np.abs(scores[:, None] - other_scores) <= score)
        & (np.abs(boxes[:, None] - other_boxes) <= pixels).all(axis=2)
    )
    pairs = linear_sum_assignment(is_equal, maximize=True)
    assert is_equal[pairs].all(), f"{(~is_equal[pairs]).sum()} of {len(labels)} boxes have no equal of their own"

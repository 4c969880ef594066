"""Whether two detectors say the same of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Boxes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Labels (N,), scores (N,), corners (N, 4)."""


def assert_alike(ours: Boxes, theirs: Boxes, *, pixels: float = 0.5, score: float = 0.005) -> None:
    """The same scores in the same order, and each box has its own like; of two with one score either may be first."""
    np.testing.assert_allclose(ours[1], theirs[1], atol=score)
    (labels, scores, boxes), (other_labels, other_scores, other_boxes) = ours, theirs
    near = (
        (labels[:, None] == other_labels)
        & (np.abs(scores[:, None] - other_scores) <= score)
        & (np.abs(boxes[:, None] - other_boxes) <= pixels).all(axis=2)
    )
    pairs = linear_sum_assignment(near, maximize=True)
    assert near[pairs].all(), f"{(~near[pairs]).sum()} of {len(labels)} boxes have no like of their own"

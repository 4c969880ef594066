"""Whether two detectors say the same of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Labels (N,), scores (N,), corners (N, 4)."""


def assert_alike(ours: Boxes, theirs: Boxes, *, pixels: float = 0.5, score: float = 0.005) -> None:
    """The same scores in the same order; and each box has its like; of two with one score either may come first."""
    np.testing.assert_allclose(ours[1], theirs[1], atol=score)
    for (labels, scores, boxes), (other_labels, other_scores, other_boxes) in ((ours, theirs), (theirs, ours)):
        near = (
            (labels[:, None] == other_labels)
            & (np.abs(scores[:, None] - other_scores) <= score)
            & (np.abs(boxes[:, None] - other_boxes) <= pixels).all(axis=2)
        )
        assert near.any(axis=1).all()

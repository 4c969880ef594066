"""Agreement of two predictions that differ by rounding."""

from __future__ import annotations

import numpy as np

from batchtag.types import Prediction

CONFIDENT_SCORE = 0.3
"""Least score of a box that a rounded prediction must contain, too."""


def count_confident(prediction: Prediction) -> int:
    """Count the boxes with a confident score."""
    return int((prediction.scores >= CONFIDENT_SCORE).sum())


def count_matches(exact: Prediction, rounded: Prediction, *, pixels: float, score: float) -> int:
    """Count the confident boxes of `exact` that `rounded` has, too: same label, and score and corners as close."""
    is_confident = exact.scores >= CONFIDENT_SCORE
    is_match = (
        (exact.label_ids[is_confident, None] == rounded.label_ids)
        & (np.abs(exact.scores[is_confident, None] - rounded.scores) <= score)
        & (np.abs(exact.boxes_xyxy[is_confident, None] - rounded.boxes_xyxy) <= pixels).all(axis=2)
    )
    return int(is_match.any(axis=1).sum())

"""The receiver operating characteristic (ROC) of one class against all others, computed by scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 201
"""Maximum number of points that a curve keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RocCurve:
    """The curve of one class: two (P,) float64 arrays, P <= 201, both ascending from 0 to 1; empty if undefined."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]


def compute_roc(is_true: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[RocCurve, float]:
    """Return the curve of a class and the area under it. `is_true` and `scores` are (N,), one entry for each image.

    The curve is empty and the area nan unless some images are of the class and some are not. The area is that of all
    points; a curve with more than MAX_POINTS is reduced to points at equal distances along it, so that both ends and
    the bend stay.
    """
    if is_true.all() or not is_true.any():
        return RocCurve(false_positive_rate=np.zeros(0), true_positive_rate=np.zeros(0)), math.nan
    from sklearn.metrics import auc, roc_curve

    false_rate, true_rate, _ = roc_curve(is_true, scores)
    area = float(auc(false_rate, true_rate))
    if len(false_rate) > MAX_POINTS:
        length = false_rate + true_rate
        points = np.searchsorted(length, np.linspace(0, length[-1], MAX_POINTS))
        points = np.unique(np.append(points[:-1], len(length) - 1))
        false_rate, true_rate = false_rate[points], true_rate[points]
    return RocCurve(false_positive_rate=false_rate, true_positive_rate=true_rate), area

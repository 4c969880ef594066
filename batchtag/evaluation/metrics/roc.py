"""The receiver operating characteristic of one class against the rest, by scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 201


@dataclass(frozen=True, kw_only=True, slots=True)
class RocCurve:
    """One class against the rest: (P,) float64 each, P <= 201, both ascending from 0 to 1; empty if undefined."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]


def one_against_rest(is_true: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[RocCurve, float]:
    """The curve and the area under all of it; empty and nan unless there are examples and counter-examples.

    A curve of more points is thinned to points at equal steps along it, so that both ends and the bend stay.
    """
    if is_true.all() or not is_true.any():
        return RocCurve(false_positive_rate=np.zeros(0), true_positive_rate=np.zeros(0)), math.nan
    from sklearn.metrics import auc, roc_curve

    false_rate, true_rate, _ = roc_curve(is_true, scores)
    area = float(auc(false_rate, true_rate))
    if len(false_rate) > MAX_POINTS:
        length = false_rate + true_rate
        kept = np.searchsorted(length, np.linspace(0, length[-1], MAX_POINTS))
        kept = np.unique(np.append(kept[:-1], len(length) - 1))
        false_rate, true_rate = false_rate[kept], true_rate[kept]
    return RocCurve(false_positive_rate=false_rate, true_positive_rate=true_rate), area

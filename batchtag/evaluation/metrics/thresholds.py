"""The score from which a reader should believe a class.

The threshold maximises F1. Any number above the next lower score and up to the lowest one kept gives the same F1 here;
we take the middle of the two, as decision trees do: it survives the rounding of scores to float32 or of thresholds to a
few digits, and images not yet seen fall on both sides of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """Believe what scores `score` or more: then precision, recall and F1 are these. All are nan where none helps."""

    score: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    f1: float = math.nan


NO_THRESHOLD = Threshold()


def best_threshold(scores: NDArray[np.float64], is_right: NDArray[np.bool_], num_true: int) -> Threshold:
    """The threshold that maximises F1 of one class.

    `scores` (N,) of everything said to be of this class, in any order; `is_right` (N,); `num_true` examples exist,
    found or not. Equal scores are kept or dropped together. Of equally good thresholds it is the lowest, which finds
    most; where nothing lower was said, it is the lowest score itself. Without an example, or if never right,
    NO_THRESHOLD: no score makes this class believable.
    """
    if num_true == 0 or not is_right.any():
        return NO_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    descending = scores[order].astype(np.float64)
    last_of_its_score = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    num_kept = last_of_its_score + 1
    num_right = np.cumsum(is_right[order])[last_of_its_score]
    f1 = 2 * num_right / (num_kept + num_true)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    next_lower = last_of_its_score[min(best + 1, len(f1) - 1)]
    return Threshold(
        score=_between(float(descending[next_lower]), float(descending[last_of_its_score[best]])),
        precision=float(num_right[best] / num_kept[best]),
        recall=float(num_right[best] / num_true),
        f1=float(f1[best]),
    )


def _between(low: float, high: float) -> float:
    """The middle, but above `low`, from which neighbouring floats would keep it."""
    middle = low + (high - low) / 2
    return middle if middle > low else high

"""The score from which a reader should trust the tags of a class.

The threshold maximises F1. Any number above the highest rejected score, up to the lowest accepted score, gives the same
F1 here. The middle of the two is chosen, as decision trees do: it stays valid when scores are rounded to float32 or the
threshold to a few digits, and new images fall on both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A threshold, and the precision, recall and F1 of what scores `score` or more. All are nan without a threshold."""

    score: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    f1: float = math.nan


NO_THRESHOLD = Threshold()
"""The threshold of a class for which no score is trustworthy."""


def known_scores(thresholds: Mapping[str, Threshold]) -> dict[str, float]:
    """Return the score of each threshold, by label, without the labels that have none."""
    return {label: threshold.score for label, threshold in thresholds.items() if not math.isnan(threshold.score)}


def best_threshold(scores: NDArray[np.float64], is_correct: NDArray[np.bool_], num_true: int) -> Threshold:
    """Return the threshold that maximises the F1 of one class.

    `scores` (N,) are those of all predictions of the class, in any order, and `is_correct` (N,) belongs to them.
    `num_true` is the number of true examples, predicted or not. Equal scores are accepted or rejected together. Among
    equally good thresholds the lowest is returned, because it accepts the most; if no score lies below it, it is the
    lowest score itself. Returns NO_THRESHOLD without an example or without a correct prediction.
    """
    if num_true == 0 or not is_correct.any():
        return NO_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    descending = scores[order].astype(np.float64)
    last_of_score = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    num_accepted = last_of_score + 1
    num_correct = np.cumsum(is_correct[order])[last_of_score]
    f1 = 2 * num_correct / (num_accepted + num_true)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    next_lower = last_of_score[min(best + 1, len(f1) - 1)]
    return Threshold(
        score=_middle_above(float(descending[next_lower]), float(descending[last_of_score[best]])),
        precision=float(num_correct[best] / num_accepted[best]),
        recall=float(num_correct[best] / num_true),
        f1=float(f1[best]),
    )


def _middle_above(low: float, high: float) -> float:
    """Return the middle, or `high` if the middle is not above `low`, as happens with neighbouring floats."""
    middle = low + (high - low) / 2
    return middle if middle > low else high

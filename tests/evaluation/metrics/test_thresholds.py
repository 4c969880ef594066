"""The score from which to trust the tags of a class."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchtag.evaluation.metrics.thresholds import NO_THRESHOLD, best_threshold


def test_the_threshold_lies_in_the_middle_between_the_last_accepted_and_the_first_rejected_score() -> None:
    best = best_threshold(np.array([0.2, 0.9, 0.8, 0.4]), np.array([False, True, True, False]), 2)
    assert best.score == pytest.approx(0.6)
    assert (best.precision, best.recall, best.f1) == (1, 1, 1)


def test_if_everything_is_accepted_the_threshold_is_the_lowest_score() -> None:
    assert best_threshold(np.array([0.7, 0.3]), np.array([True, True]), 5).score == 0.3


def test_equal_scores_are_accepted_or_rejected_together() -> None:
    best = best_threshold(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), 1)
    assert (best.score, best.precision, best.recall) == (0.5, 1 / 3, 1)


def test_among_equally_good_thresholds_the_lowest_is_chosen() -> None:
    """F1 is 2 * 1 / (1 + 2) with one accepted, and 2 * 2 / (4 + 2) with four."""
    best = best_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True]), 2)
    assert (best.score, best.recall) == (0.6, 1)


def test_a_threshold_separates_neighbouring_floats() -> None:
    high = 0.5
    low = float(np.nextafter(high, 0))
    best = best_threshold(np.array([high, low]), np.array([True, False]), 1)
    assert low < best.score <= high


def test_a_class_without_an_example_or_a_correct_prediction_has_no_threshold() -> None:
    assert best_threshold(np.array([0.9]), np.array([False]), 3) is NO_THRESHOLD
    assert best_threshold(np.array([0.9]), np.array([False]), 0) is NO_THRESHOLD
    assert best_threshold(np.zeros(0), np.zeros(0, np.bool_), 4) is NO_THRESHOLD
    assert math.isnan(NO_THRESHOLD.score)


@pytest.mark.parametrize("seed", range(10))
def test_no_other_threshold_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(1, 20, 30) / 20
    is_correct = random.uniform(size=30) < scores
    num_true = int(is_correct.sum()) + 5
    best = best_threshold(scores, is_correct, num_true)

    def f1(threshold: float) -> float:
        is_accepted = scores >= threshold
        return float(2 * is_correct[is_accepted].sum() / (is_accepted.sum() + num_true))

    assert best.f1 == pytest.approx(f1(best.score))
    assert best.f1 == pytest.approx(max(f1(threshold) for threshold in np.linspace(0, 1, 41)))
    assert best.f1 == pytest.approx(2 * best.precision * best.recall / (best.precision + best.recall))

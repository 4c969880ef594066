"""Reliability diagrams and the expected calibration error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchtag.evaluation.metrics.calibration import measure_calibration


def test_the_error_is_that_of_guo_et_al() -> None:
    """Two bins: 0.2 and 0.4 are half correct, 0.9 and 0.7 all correct; so 2/4 * |0.5 - 0.3| + 2/4 * |1 - 0.8|."""
    result = measure_calibration(np.array([0.2, 0.4, 0.9, 0.7]), np.array([True, False, True, True]), num_bins=2)
    assert result.count.tolist() == [2, 2]
    assert result.confidence == pytest.approx([0.3, 0.8])
    assert result.accuracy == pytest.approx([0.5, 1.0])
    assert result.ece == pytest.approx(0.2)


def test_a_bin_includes_its_upper_edge_and_the_first_bin_zero() -> None:
    result = measure_calibration(np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), np.ones(6, np.bool_), num_bins=5)
    assert result.count.tolist() == [2, 1, 1, 1, 1]


def test_empty_bins_and_no_predictions_are_nan() -> None:
    result = measure_calibration(np.array([0.95]), np.array([True]))
    assert np.isnan(result.accuracy[:-1]).all()
    assert result.ece == pytest.approx(0.05)
    assert math.isnan(measure_calibration(np.zeros(0), np.zeros(0, np.bool_)).ece)


def test_scores_that_are_true_probabilities_have_nearly_no_error() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(size=100_000)
    assert measure_calibration(scores, random.uniform(size=100_000) < scores).ece < 0.01

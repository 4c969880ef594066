"""Reliability diagrams and their error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchtag.evaluation.metrics.calibration import calibration


def test_the_error_is_what_guo_and_others_define() -> None:
    """Two bins: 0.2 and 0.4 half right, 0.9 and 0.7 all right; so 2/4 * |0.5 - 0.3| + 2/4 * |1 - 0.8|."""
    found = calibration(np.array([0.2, 0.4, 0.9, 0.7]), np.array([True, False, True, True]), num_bins=2)
    assert found.count.tolist() == [2, 2]
    assert found.confidence == pytest.approx([0.3, 0.8])
    assert found.accuracy == pytest.approx([0.5, 1.0])
    assert found.ece == pytest.approx(0.2)


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    found = calibration(np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), np.ones(6, np.bool_), num_bins=5)
    assert found.count.tolist() == [2, 1, 1, 1, 1]


def test_empty_bins_and_no_answers_are_nan() -> None:
    found = calibration(np.array([0.95]), np.array([True]))
    assert np.isnan(found.accuracy[:-1]).all()
    assert found.ece == pytest.approx(0.05)
    assert math.isnan(calibration(np.zeros(0), np.zeros(0, np.bool_)).ece)


def test_a_model_that_says_what_it_knows_has_nearly_no_error() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(size=100_000)
    assert calibration(scores, random.uniform(size=100_000) < scores).ece < 0.01

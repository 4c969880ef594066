"""Calibration: whether eight out of ten predictions with a score of 0.8 are correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Number of bins, as in Guo et al. 2017, section 4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A reliability diagram of B bins of equal width over [0, 1].

    Bin b has the predictions with `edges[b] < score <= edges[b + 1]`; the first bin also has those of score 0. `edges`
    is (B + 1,), `confidence` (B,) is the mean score of each bin, `accuracy` (B,) the share of its predictions that are
    correct, and `count` (B,) int64 their number; an empty bin has nan. `ece` is the expected calibration error: the sum
    over b of count[b] / N * |accuracy[b] - confidence[b]| (equation 3 of Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017); nan without predictions.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float


def measure_calibration(
    scores: NDArray[np.float64], is_correct: NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> Calibration:
    """Measure the calibration of N predictions. `scores` (N,) lie in [0, 1]; `is_correct` is (N,)."""
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], scores, side="left")
    count = np.bincount(bins, minlength=num_bins)
    nonzero_count = np.where(count > 0, count, np.nan)
    confidence = np.bincount(bins, weights=scores, minlength=num_bins) / nonzero_count
    accuracy = np.bincount(bins, weights=is_correct, minlength=num_bins) / nonzero_count
    gaps = count * np.abs(accuracy - confidence)
    return Calibration(
        edges=edges,
        confidence=confidence,
        accuracy=accuracy,
        count=count,
        ece=float(np.nansum(gaps) / len(scores)) if len(scores) else float("nan"),
    )

"""Whether a score of 0.8 is right eight times in ten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""As in Guo et al. 2017, section 4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A reliability diagram of B bins of equal width over [0, 1].

    Bin b holds the answers with `edges[b] < score <= edges[b + 1]`, and the first also those of score 0. `edges` is
    (B + 1,), `confidence` (B,) their mean score, `accuracy` (B,) the share of them that is right, `count` (B,) int64;
    an empty bin has nan. `ece` is the expected calibration error, the sum over b of count[b] / N * |accuracy[b] -
    confidence[b]| (equation 3 of Guo et al., On Calibration of Modern Neural Networks, ICML 2017); nan for no answers.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float


def calibration(scores: NDArray[np.float64], is_right: NDArray[np.bool_], *, num_bins: int = NUM_BINS) -> Calibration:
    """`scores` (N,) in [0, 1] of N answers, and `is_right` (N,) of the same."""
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], scores, side="left")
    count = np.bincount(bins, minlength=num_bins)
    filled = np.where(count > 0, count, np.nan)
    confidence = np.bincount(bins, weights=scores, minlength=num_bins) / filled
    accuracy = np.bincount(bins, weights=is_right, minlength=num_bins) / filled
    gaps = count * np.abs(accuracy - confidence)
    return Calibration(
        edges=edges,
        confidence=confidence,
        accuracy=accuracy,
        count=count,
        ece=float(np.nansum(gaps) / len(scores)) if len(scores) else float("nan"),
    )

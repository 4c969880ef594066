"""Which images an epoch shows, in which order: a pure function of the seed, so a resumed epoch shows the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def epoch_order(repeats: NDArray[np.float64], *, seed: int, epoch: int, rank: int = 0, ranks: int = 1) -> list[int]:
    """The positions that one worker of `ranks` shows in this epoch, shuffled; every rank gets equally many.

    Position i comes floor(repeats[i]) times, and once more with the chance of the rest, as in LVIS's repeat-factor
    sampling (Gupta et al. 2019). What does not divide by the ranks is left out of this epoch.
    """
    dice = np.random.default_rng([seed, epoch])
    whole = np.floor(repeats).astype(np.int64)
    counts = whole + (dice.random(len(repeats)) < repeats - whole)
    order = dice.permutation(np.repeat(np.arange(len(repeats)), counts))
    even = len(order) - len(order) % ranks
    return [int(i) for i in order[rank:even:ranks]]


def repeat_factors(label_ids: Sequence[NDArray[np.int64]], *, num_labels: int) -> NDArray[np.float64]:
    """How often each image is to come in an epoch so that rare classes are seen more often; at least 1.

    LVIS's r = max over its classes of sqrt(t / f), with f the share of images that show the class; the threshold t
    is the share of the commonest class (LVIS's 0.001 is for 1,203 classes). Images of nothing come once.
    """
    if not label_ids:
        return np.zeros(0)
    shown = np.zeros((len(label_ids), num_labels), bool)
    for i, ids in enumerate(label_ids):
        shown[i, ids] = True
    share = shown.mean(axis=0)
    factor = np.sqrt(share.max() / np.where(share > 0, share, 1.0))
    repeats: NDArray[np.float64] = np.maximum(1.0, (shown * factor).max(axis=1))
    return repeats

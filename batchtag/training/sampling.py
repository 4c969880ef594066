"""Which images an epoch uses, and in which order: a pure function of the seed, so a resumed epoch uses the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def epoch_order(
    repeats: NDArray[np.float64], *, seed: int, epoch: int, rank: int = 0, num_processes: int = 1
) -> list[int]:
    """Return the positions of the images that training process `rank` uses in this epoch, shuffled.

    Position i appears floor(repeats[i]) times, and once more with the remainder as probability, as in the repeat-factor
    sampling of LVIS (Gupta et al. 2019). Every process gets the same number; images that cannot be divided evenly among
    the processes are left out of this epoch.
    """
    dice = np.random.default_rng([seed, epoch])
    whole = np.floor(repeats).astype(np.int64)
    counts = whole + (dice.random(len(repeats)) < repeats - whole)
    order = dice.permutation(np.repeat(np.arange(len(repeats)), counts))
    num_even = len(order) - len(order) % num_processes
    return [int(i) for i in order[rank:num_even:num_processes]]


def repeat_factors(label_ids: Sequence[NDArray[np.int64]], *, num_labels: int) -> NDArray[np.float64]:
    """Return how often each image should appear in an epoch, at least 1, so that rare classes are seen more often.

    `label_ids` has one array for each image; the result is (number of images,). LVIS's r = max over the image's classes
    of sqrt(t / f), where f is the share of the images that show the class. The threshold t is the share of the
    commonest class (LVIS's 0.001 is meant for 1,203 classes). An image without objects gets 1.
    """
    if not label_ids:
        return np.zeros(0)
    is_shown = np.zeros((len(label_ids), num_labels), bool)
    for i, ids in enumerate(label_ids):
        is_shown[i, ids] = True
    share = is_shown.mean(axis=0)
    factor = np.sqrt(share.max() / np.where(share > 0, share, 1.0))
    repeats: NDArray[np.float64] = np.maximum(1.0, (is_shown * factor).max(axis=1))
    return repeats

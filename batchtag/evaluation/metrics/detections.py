"""The detections of a model on one image, as the metrics take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """M detections on one image, in any order.

    `boxes_xyxy` (M, 4) is in pixels of the displayed image, like the ground truth; `scores` (M,) lie in [0, 1];
    `label_ids` (M,) are integers that count the data set's labels from 0, without a background class. Raises one
    ValueError with everything that is wrong.
    """

    boxes_xyxy: NDArray[np.floating]
    scores: NDArray[np.floating]
    label_ids: NDArray[np.integer]

    def __post_init__(self) -> None:
        n = len(self.scores)
        problems = []
        if self.boxes_xyxy.shape != (n, 4):
            problems.append(f"boxes_xyxy must have shape ({n}, 4), got {self.boxes_xyxy.shape}")
        elif not np.isfinite(self.boxes_xyxy).all():
            problems.append("boxes_xyxy must be finite, got nan or inf")
        if self.scores.shape != (n,):
            problems.append(f"scores must have shape ({n},), got {self.scores.shape}")
        elif not ((self.scores >= 0) & (self.scores <= 1)).all():
            problems.append(f"scores must lie in [0, 1], got {self.scores.min()} to {self.scores.max()}")
        if self.label_ids.shape != (n,) or not np.issubdtype(self.label_ids.dtype, np.integer):
            got = f"{self.label_ids.shape} {self.label_ids.dtype}"
            problems.append(f"label_ids must be ({n},) integers, got {got}")
        if problems:
            raise ValueError("; ".join(problems))

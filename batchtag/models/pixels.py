"""From arrays to tensors on the device: the one step that every network of ours shares."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 as (3, H, W) uint8 on `device`, a view: the three colours of a pixel stay side by side.

    Resizing is four times as fast on that. Pixels travel as bytes and become floats over there. A read-only array (Ray
    gives such) is copied first, because torch warns of one, and rightly: a tensor over it could be written to.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image must be (H, W, 3) uint8 with pixels in it, got {image.shape} {image.dtype}")
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    return pixels.to(device).permute(2, 0, 1)

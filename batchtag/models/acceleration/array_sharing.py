"""Workaround: a torch tensor over the memory of a read-only array, without a copy and without a warning.

Most arrays of images are read-only, because Pillow and Ray return such arrays. torch (as of 2.15) has no read-only
tensors, so `torch.from_numpy` warns about these arrays, and a copy to avoid the warning costs 0.5 ms for a megapixel.
This module can go when `torch.from_numpy` accepts read-only arrays without a warning.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tensor_over(array: NDArray[np.uint8]) -> Tensor:
    """Return a tensor over the array's own memory, which it keeps alive. Nothing may write to the tensor.

    An array that is not C-contiguous is copied first.
    """
    return torch.from_numpy(np.asarray(_WritableMemory(np.ascontiguousarray(array))))


class _WritableMemory:
    """The memory of an array without its read-only flag, through numpy's array interface."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}

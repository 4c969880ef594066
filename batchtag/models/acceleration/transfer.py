"""From arrays to tensors on the device: the one step that every network of ours shares."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_AHEAD = 2
"""Batches that travel or have arrived: more would be memory, here and there, for nothing."""


def to_device(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 as (3, H, W) uint8 on `device`, a view: the three colours of a pixel stay side by side.

    Resizing is four times as fast on that. Pixels travel as bytes and become floats over there. On the CPU it is the
    array's own memory, which nobody may write to: most arrays are read-only (Pillow and Ray give such), of which torch
    would warn, and a copy to silence it costs half a millisecond for a megapixel.
    """
    check(image)
    pixels = torch.from_numpy(np.asarray(_Memory(np.ascontiguousarray(image))))
    return pixels.to(device).permute(2, 0, 1)


class _Memory:
    """The memory of an array, which it keeps alive, without the mark that nobody may write to it."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def check(image: NDArray[np.uint8]) -> None:
    """Raises ValueError for an array that is no image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image must be (H, W, 3) uint8 with pixels in it, got {image.shape} {image.dtype}")


class Uploads:
    """Images on their way to a GPU while it computes: a thread, a stream and pinned memory of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")

    def ahead(self, batches: Sequence[Sequence[NDArray[np.uint8]]]) -> Iterator[list[Tensor]]:
        """Each batch as `to_device` gives images, ready for the current stream; the next one travels meanwhile."""
        left = iter(batches)
        started = deque(self._pool.submit(self._start, batch) for batch in itertools.islice(left, _AHEAD))
        for batch in batches:
            there, done = started.popleft().result()
            started.extend(self._pool.submit(self._start, one) for one in itertools.islice(left, 1))
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(done)
            there.record_stream(stream)  # or its memory could be given away while this stream still reads it
            ends = np.cumsum([image.size for image in batch])
            yield [
                there[end - image.size : end].view(image.shape).permute(2, 0, 1)
                for image, end in zip(batch, ends.tolist(), strict=True)
            ]

    def _start(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, torch.cuda.Event]:
        """All bytes of a batch in one piece, and the event of their arrival. Runs in the thread."""
        for image in images:
            check(image)
        pinned = torch.empty(sum(image.size for image in images), dtype=torch.uint8, pin_memory=True)
        np.concatenate([image.ravel() for image in images], out=pinned.numpy())
        with torch.cuda.stream(self._stream):
            there = pinned.to(self._device, non_blocking=True)
            return there, self._stream.record_event()

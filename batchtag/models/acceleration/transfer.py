"""The way of images from arrays in memory to tensors on the device, which all our networks share.

`Uploads` is always used on GPUs. tests/models/test_on_gpu.py checks its results where there is a GPU. Its speed has not
been measured on any GPU.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchtag.models.acceleration.array_sharing import tensor_over

_BATCHES_AHEAD = 2
"""Number of batches that are being copied or wait on the GPU. More would take memory on both sides for no gain."""


def to_device(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return a (3, H, W) uint8 view of an image (H, W, 3) uint8 on `device`; the colours of a pixel stay adjacent.

    Bytes are copied to the device and become floats there. On the CPU the tensor is the array's own memory, to which
    nothing may write. Raises ValueError for an array that is not an image.
    """
    check_image(image)
    return tensor_over(image).to(device).permute(2, 0, 1)


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ValueError for an array that is not an image."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image must be (H, W, 3) uint8 with at least one pixel, got {image.shape} {image.dtype}")


class Uploads:
    """Copies batches of images to a GPU while it computes, with its own thread, CUDA stream and pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")

    def upload_ahead(self, batches: Sequence[Sequence[NDArray[np.uint8]]]) -> Iterator[list[Tensor]]:
        """Yield each batch as `to_device` returns images, ready for the current stream, and copy the next ones."""
        not_started = iter(batches)
        uploads = deque(
            self._pool.submit(self._upload, batch) for batch in itertools.islice(not_started, _BATCHES_AHEAD)
        )
        for batch in batches:
            # 1. Take the oldest upload, and start another in its place.
            pixels, arrival = uploads.popleft().result()
            uploads.extend(self._pool.submit(self._upload, images) for images in itertools.islice(not_started, 1))
            # 2. Let the stream that computes wait for the copy, without blocking this thread.
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(arrival)
            # 3. Tell torch's allocator that this stream reads the memory, so that it is not reused too early.
            pixels.record_stream(stream)
            ends = np.cumsum([image.size for image in batch])
            yield [
                pixels[end - image.size : end].view(image.shape).permute(2, 0, 1)
                for image, end in zip(batch, ends.tolist(), strict=True)
            ]

    def _upload(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, torch.cuda.Event]:
        """Start to copy a batch in one piece; return its bytes and the event of their arrival. Runs in the thread."""
        for image in images:
            check_image(image)
        pinned = torch.empty(sum(image.size for image in images), dtype=torch.uint8, pin_memory=True)
        np.concatenate([image.ravel() for image in images], out=pinned.numpy())
        with torch.cuda.stream(self._stream):
            pixels = pinned.to(self._device, non_blocking=True)
            return pixels, self._stream.record_event()

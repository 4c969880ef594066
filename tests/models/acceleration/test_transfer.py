"""An array becomes a tensor without a copy where possible, and an array that is not an image is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from batchtag.models.acceleration.transfer import to_device

CPU = torch.device("cpu")


def test_a_read_only_image_becomes_a_tensor_over_its_own_memory_without_a_warning() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = to_device(image, CPU)
    assert pixels.shape == (3, 4, 5)
    assert pixels.data_ptr() == image.ctypes.data
    assert not image.flags.writeable


def test_a_tensor_keeps_the_memory_of_its_image_alive() -> None:
    expected = np.frombuffer(bytes(range(240)) * 4096, dtype=np.uint8).reshape(-1, 80, 3)
    pixels = to_device(np.frombuffer(bytes(range(240)) * 4096, dtype=np.uint8).reshape(-1, 80, 3), CPU)
    new_allocations = [bytes([1]) * (240 * 4096) for _ in range(8)]
    assert len(new_allocations) == 8
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_a_strided_view_is_copied_and_its_pixels_are_the_same() -> None:
    image = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)[::2, ::-1]
    assert np.array_equal(to_device(image, CPU).permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 4), (0, 5, 3)])
def test_an_array_that_is_not_an_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        to_device(np.zeros(shape, dtype=np.uint8), CPU)

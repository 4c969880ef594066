from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from batchtag.config.training import AugmentSpec
from batchtag.training.augment import augmentation, changed

STILL: dict[str, Any] = {"flip": 0, "colour": 0}


def image_with(box: list[float]) -> tuple[Tensor, Tensor]:
    """Black with a white box, (3, 60, 80) uint8, and the box."""
    pixels = torch.zeros(3, 60, 80, dtype=torch.uint8)
    x0, y0, x1, y1 = (int(side) for side in box)
    pixels[:, y0:y1, x0:x1] = 255
    return pixels, torch.tensor([box])


@pytest.mark.parametrize("said", [{"flip": 1}, {"vertical_flip": 1}, {"crop": 1}, {"zoom_out": 1}])
@pytest.mark.parametrize("seed", range(6))
def test_a_box_stays_on_what_it_is_around(said: dict[str, float], seed: int) -> None:
    pixels, boxes = image_with([10, 20, 40, 50])
    torch.manual_seed(seed)
    image, target = changed(
        pixels, boxes, torch.tensor([3]), augmentation(AugmentSpec(**(STILL | said)), task="detect")
    )
    white = (image[0] > 200).nonzero()
    assert target["labels"].tolist() == [3]
    y0, x0 = white.min(dim=0).values.tolist()
    y1, x1 = (white.max(dim=0).values + 1).tolist()
    torch.testing.assert_close(target["boxes"], torch.tensor([[x0, y0, x1, y1]]).float(), atol=1.0, rtol=0)


def test_a_box_that_is_cut_away_takes_its_label_with_it() -> None:
    pixels, _ = image_with([0, 0, 4, 4])
    boxes = torch.tensor([[0.0, 0, 1, 1], [10, 10, 30, 30]])
    _, target = changed(pixels, boxes, torch.tensor([1, 2]), augmentation(AugmentSpec(**STILL), task="detect"))
    assert target["labels"].tolist() == [2]
    assert target["boxes"].tolist() == [[10, 10, 30, 30]]


def test_a_image_of_nothing_stays_one() -> None:
    pixels, _ = image_with([0, 0, 4, 4])
    change = augmentation(AugmentSpec(flip=1, crop=1, zoom_out=1), task="detect")
    _, target = changed(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), change)
    assert target["boxes"].shape == (0, 4)


def test_a_classifiers_cut_has_the_size_its_network_takes() -> None:
    spec = AugmentSpec(rotate_degrees=30, blur=1, erase=1, colour=0.5)
    change = augmentation(spec, task="classify", crop_size=24, interpolation="bicubic")
    pixels, _ = image_with([10, 20, 40, 50])
    assert change(pixels).shape == (3, 24, 24)
    assert change(pixels).dtype == torch.uint8

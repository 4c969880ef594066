from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from batchtag.config.training import AugmentSpec
from batchtag.training.augment import augment_with_boxes, detector_training_sizes, make_augmentation

NO_CHANGE: dict[str, Any] = {"flip": 0, "colour": 0}


def draw_box(box_xyxy: list[float]) -> tuple[Tensor, Tensor]:
    """Return a black image (3, 60, 80) uint8 with a white box, and the box (1, 4)."""
    pixels = torch.zeros(3, 60, 80, dtype=torch.uint8)
    x0, y0, x1, y1 = (int(side) for side in box_xyxy)
    pixels[:, y0:y1, x0:x1] = 255
    return pixels, torch.tensor([box_xyxy])


@pytest.mark.parametrize("settings", [{"flip": 1}, {"vertical_flip": 1}, {"crop": 1}, {"zoom_out": 1}])
@pytest.mark.parametrize("seed", range(6))
def test_a_box_stays_around_its_object(settings: dict[str, float], seed: int) -> None:
    pixels, boxes = draw_box([10, 20, 40, 50])
    torch.manual_seed(seed)
    augmentation = make_augmentation(AugmentSpec(**(NO_CHANGE | settings)), task="detect")
    image, target = augment_with_boxes(pixels, boxes, torch.tensor([3]), augmentation)
    white = (image[0] > 200).nonzero()
    assert target["labels"].tolist() == [3]
    y0, x0 = white.min(dim=0).values.tolist()
    y1, x1 = (white.max(dim=0).values + 1).tolist()
    torch.testing.assert_close(target["boxes"], torch.tensor([[x0, y0, x1, y1]]).float(), atol=1.0, rtol=0)


def test_a_box_smaller_than_2_pixels_is_removed_with_its_label() -> None:
    pixels, _ = draw_box([0, 0, 4, 4])
    boxes = torch.tensor([[0.0, 0, 1, 1], [10, 10, 30, 30]])
    augmentation = make_augmentation(AugmentSpec(**NO_CHANGE), task="detect")
    _, target = augment_with_boxes(pixels, boxes, torch.tensor([1, 2]), augmentation)
    assert target["labels"].tolist() == [2]
    assert target["boxes"].tolist() == [[10, 10, 30, 30]]


def test_an_image_without_objects_can_be_augmented() -> None:
    pixels, _ = draw_box([0, 0, 4, 4])
    augmentation = make_augmentation(AugmentSpec(flip=1, crop=1, zoom_out=1), task="detect")
    _, target = augment_with_boxes(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), augmentation)
    assert target["boxes"].shape == (0, 4)


def test_a_classifiers_crop_has_the_input_size_of_its_network() -> None:
    spec = AugmentSpec(rotate_degrees=30, blur=1, erase=1, colour=0.5)
    augmentation = make_augmentation(spec, task="classify", crop_size=24, interpolation="bicubic")
    pixels, _ = draw_box([10, 20, 40, 50])
    assert augmentation(pixels).shape == (3, 24, 24)
    assert augmentation(pixels).dtype == torch.uint8


def test_a_detector_sees_images_in_five_sizes_around_its_own() -> None:
    assert detector_training_sizes(AugmentSpec(scale=(0.8, 1.2)), min_size=100) == (80, 90, 100, 110, 120)
    assert detector_training_sizes(AugmentSpec(scale=(1.0, 1.0)), min_size=100) == (100,)
    assert detector_training_sizes(AugmentSpec(), min_size=0) == ()

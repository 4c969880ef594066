"""Random changes of training images and their boxes: torchvision.transforms.v2 on upright uint8 pixels.

Resizing and normalising are not done here but by the model itself, so that training and runs cannot differ in it. A
classifier's crop is resized to its input size, with the interpolation that the model uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from batchtag.config.training import AugmentSpec
from batchtag.tasks import Task

_MIN_BOX_PX = 2.0
"""Smallest side, in pixels, of a box that is kept."""
_NUM_SIZES = 5
"""Number of different sizes that a detector sees images in."""


def make_augmentation(
    spec: AugmentSpec, *, task: Task, crop_size: int = 0, interpolation: str = "bilinear"
) -> v2.Transform:
    """Make the transform of one job: (3, H, W) uint8 to (3, H', W') uint8; for detection also boxes and labels.

    `crop_size` and `interpolation` are a classifier's. See `augment_with_boxes` for a detector's images.
    """
    if task == "detect":
        steps = _geometry_with_boxes(spec)
    else:
        steps = _geometry_of_classifier(spec, crop_size=crop_size, interpolation=interpolation)
    if spec.flip:
        steps.append(v2.RandomHorizontalFlip(spec.flip))
    if spec.vertical_flip:
        steps.append(v2.RandomVerticalFlip(spec.vertical_flip))
    if spec.colour:
        strength = spec.colour
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength, hue=strength / 10))
    if spec.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel_size=5, sigma=(0.1, 1.5))], p=spec.blur))
    if spec.erase and task == "classify":
        steps.append(v2.RandomErasing(p=spec.erase, scale=(0.02, 0.2)))
    if task == "detect":
        steps.append(v2.SanitizeBoundingBoxes(min_size=_MIN_BOX_PX))
    return v2.Compose(steps) if steps else v2.Identity()


def _geometry_with_boxes(spec: AugmentSpec) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if spec.zoom_out:
        steps.append(v2.RandomZoomOut(fill=114, side_range=(1.0, 2.0), p=spec.zoom_out))
    if spec.crop:
        steps.append(v2.RandomApply([v2.RandomIoUCrop(min_scale=0.5)], p=spec.crop))
    return steps


def _geometry_of_classifier(spec: AugmentSpec, *, crop_size: int, interpolation: str) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if spec.rotate_degrees:
        steps.append(v2.RandomRotation(spec.rotate_degrees, interpolation=InterpolationMode.BILINEAR))
    mode = InterpolationMode(interpolation)
    crop = v2.RandomResizedCrop(crop_size, scale=(spec.least_area, 1.0), interpolation=mode, antialias=True)
    return [*steps, crop]


def augment_with_boxes(
    pixels: Tensor, boxes_xyxy: Tensor, labels: Tensor, augmentation: v2.Transform
) -> tuple[Tensor, dict[str, Tensor]]:
    """Augment one image of a detector together with its boxes.

    `pixels` is (3, H, W) uint8, `boxes_xyxy` (N, 4) float32 in pixels of it, `labels` (N,) int64. Returns the new
    pixels, and the target with `boxes` and `labels`. A box that is cut away is removed together with its label.
    """
    height, width = pixels.shape[-2:]
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=(height, width)),
        "labels": labels,
    }
    image, new_target = augmentation(tv_tensors.Image(pixels), target)
    boxes = torch.as_tensor(new_target["boxes"]).as_subclass(torch.Tensor).float().reshape(-1, 4)
    return image.as_subclass(torch.Tensor), {"boxes": boxes, "labels": new_target["labels"]}


def detector_training_sizes(spec: AugmentSpec, *, min_size: int) -> tuple[int, ...]:
    """Return the sizes that the shorter side is resized to in training; the network draws one for each image.

    `min_size` is the network's own size. It is 0 for a network with a fixed input size, which gets ().
    """
    if not min_size:
        return ()
    low, high = spec.scale
    num_sizes = _NUM_SIZES if high > low else 1
    return tuple(round(min_size * (low + (high - low) * i / max(1, num_sizes - 1))) for i in range(num_sizes))

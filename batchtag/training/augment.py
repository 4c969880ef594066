"""Images changed at random, boxes with them: torchvision.transforms.v2 on upright uint8 pixels, before the network.

What runs later in the line (resizing, normalising) is not done here but by the model itself, so that training and
tagging cannot differ in it. A classifier's cut is resized to its input size, with the interpolation it will run with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from batchtag.config.training import AugmentSpec
from batchtag.tasks import Task

_LEAST_BOX_PX = 2.0


def augmentation(spec: AugmentSpec, *, task: Task, crop_size: int = 0, interpolation: str = "bilinear") -> v2.Transform:
    """The changes of one job: (3, H, W) uint8 in and out; for detection with boxes and labels in a dictionary."""
    steps: list[v2.Transform] = []
    if task == "detect":
        steps += _for_boxes(spec)
    else:
        steps += _for_classes(spec, crop_size=crop_size, interpolation=interpolation)
    if spec.flip:
        steps.append(v2.RandomHorizontalFlip(spec.flip))
    if spec.vertical_flip:
        steps.append(v2.RandomVerticalFlip(spec.vertical_flip))
    if spec.colour:
        c = spec.colour
        steps.append(v2.ColorJitter(brightness=c, contrast=c, saturation=c, hue=c / 10))
    if spec.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel_size=5, sigma=(0.1, 1.5))], p=spec.blur))
    if spec.erase and task == "classify":
        steps.append(v2.RandomErasing(p=spec.erase, scale=(0.02, 0.2)))
    if task == "detect":
        steps.append(v2.SanitizeBoundingBoxes(min_size=_LEAST_BOX_PX))
    return v2.Compose(steps) if steps else v2.Identity()


def _for_boxes(spec: AugmentSpec) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if spec.zoom_out:
        steps.append(v2.RandomZoomOut(fill=114, side_range=(1.0, 2.0), p=spec.zoom_out))
    if spec.crop:
        steps.append(v2.RandomApply([v2.RandomIoUCrop(min_scale=0.5)], p=spec.crop))
    return steps


def _for_classes(spec: AugmentSpec, *, crop_size: int, interpolation: str) -> list[v2.Transform]:
    mode = InterpolationMode(interpolation)
    steps: list[v2.Transform] = []
    if spec.rotate_degrees:
        steps.append(v2.RandomRotation(spec.rotate_degrees, interpolation=InterpolationMode.BILINEAR))
    cut = v2.RandomResizedCrop(crop_size, scale=(spec.least_area, 1.0), interpolation=mode, antialias=True)
    return [*steps, cut]


def changed(
    pixels: Tensor, boxes_xyxy: Tensor, labels: Tensor, change: v2.Transform
) -> tuple[Tensor, dict[str, Tensor]]:
    """One image of a detector's training: (3, H, W) uint8 and (N, 4) float32 boxes in its pixels, both changed.

    A box that is cut down to nothing is gone, and its label with it.
    """
    height, width = pixels.shape[-2:]
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=(height, width)),
        "labels": labels,
    }
    image, found = change(tv_tensors.Image(pixels), target)
    boxes = torch.as_tensor(found["boxes"]).as_subclass(torch.Tensor).float().reshape(-1, 4)
    return image.as_subclass(torch.Tensor), {"boxes": boxes, "labels": found["labels"]}

"""Calls of network builders without surprises: torchvision's, and our own small detector (`small_faster_rcnn`).

A builder may download backbone weights, may draw from the global random generator, and names its thresholds in one of
two ways. This module hides all of that. `zoo` knows which builders exist.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision import models

from batchtag.models.torchvision.small_faster_rcnn import fasterrcnn_small_fpn
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN
from batchtag.types import InputResolution

if TYPE_CHECKING:  # building a network needs no pydantic
    from batchtag.tasks import Task


def untrained_arguments(builder: str, *, task: Task) -> dict[str, Any]:
    """Return the arguments with which a builder makes no download, gives no warning, and builds random weights."""
    if builder == SMALL_FASTER_RCNN:
        return {}
    if task == "detect":
        return {"weights": None, "weights_backbone": None}
    if builder in ("googlenet", "inception_v3"):
        return {"weights": None, "init_weights": True}
    return {"weights": None}


def limit_arguments(builder: str, *, score_floor: float, max_tags: int) -> dict[str, Any]:
    """Return a detection builder's arguments for the lowest score and the largest number of boxes of an image.

    The number of candidates before suppression stays as published: 1,000 proposals, 400 per class (SSD), or 1,000 per
    level.
    """
    if "rcnn" in builder:
        return {"box_score_thresh": score_floor, "box_detections_per_img": max_tags}
    return {"score_thresh": score_floor, "detections_per_img": max_tags}


def build_network(builder: str, arguments: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """Build a network on the CPU in float32, in evaluation mode.

    Random weights are those of `torch.manual_seed(seed)` in every process; the process's own random generators are left
    alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if builder == SMALL_FASTER_RCNN:
            return fasterrcnn_small_fpn(**arguments).eval()
        network: nn.Module = models.get_model(builder, **arguments)
    return network.eval()


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights that have no torch metadata (those from safetensors); MNASNet demands the version in it.

    Raises RuntimeError for tensors that do not fit the network.
    """
    state: Any = OrderedDict(tensors)
    state._metadata = {"": network.state_dict()._metadata[""]}  # type: ignore[attr-defined]
    network.load_state_dict(state)


def detector_resolution(builder: str, arguments: Mapping[str, Any]) -> tuple[InputResolution, dict[str, Any]]:
    """Return the input resolution of a detector, and its preprocessing as plain data.

    Only the built network has both, so it is built on the meta device, in 0.1 s and without memory for weights.
    """
    with torch.device("meta"):
        transform: Any = build_network(builder, arguments).transform
    preprocessing = {
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "fixed_size": transform.fixed_size,
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
    }
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return InputResolution(mode="stretch", shorter_px=height, longer_px=width), preprocessing
    resolution = InputResolution(mode="fit", shorter_px=transform.min_size[-1], longer_px=transform.max_size)
    return resolution, preprocessing

"""How to call a builder of networks without surprises: torchvision's, and one small detector of our own (`small`).

A builder may download (backbone weights), draw from the global random generator, and names its thresholds in one of two
ways; after this room none of that is visible. Which builders there are, `published` says.
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

if TYPE_CHECKING:  # what builds a network needs no pydantic
    from batchtag.tasks import Task


def untrained_arguments(builder: str, *, task: Task) -> dict[str, Any]:
    """What a builder must be told so that it builds without weights, without a download and without a warning."""
    if builder == SMALL_FASTER_RCNN:
        return {}
    if task == "detect":
        return {"weights": None, "weights_backbone": None}
    if builder in ("googlenet", "inception_v3"):
        return {"weights": None, "init_weights": True}
    return {"weights": None}


def limits(builder: str, *, score_floor: float, max_tags: int) -> dict[str, Any]:
    """A detection builder's arguments for the lowest score and the most boxes of an image.

    The candidates before suppression stay as published: 1,000 proposals, or 400 a class (SSD), or 1,000 a level.
    """
    if "rcnn" in builder:
        return {"box_score_thresh": score_floor, "box_detections_per_img": max_tags}
    return {"score_thresh": score_floor, "detections_per_img": max_tags}


def build(builder: str, arguments: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """The network on the CPU in float32, in evaluation mode.

    Random weights are those of `torch.manual_seed(seed)` in every process; the caller's generators are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if builder == SMALL_FASTER_RCNN:
            return fasterrcnn_small_fpn(**arguments).eval()
        network: nn.Module = models.get_model(builder, **arguments)
    return network.eval()


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights that come without torch's metadata (from safetensors): MNASNet insists on the version in it.

    Raises RuntimeError for tensors that are not the network's.
    """
    state: Any = OrderedDict(tensors)
    state._metadata = {"": network.state_dict()._metadata[""]}  # type: ignore[attr-defined]
    network.load_state_dict(state)


def detector_resolution(builder: str, arguments: Mapping[str, Any]) -> tuple[InputResolution, dict[str, Any]]:
    """How many pixels a detector looks at, and its preprocessing in plain data.

    Both are known to the built network only, so it is built on the meta device: 0.1 s and no memory.
    """
    with torch.device("meta"):
        transform: Any = build(builder, arguments).transform
    facts = {
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "fixed_size": transform.fixed_size,
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
    }
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return InputResolution(mode="stretch", shorter_px=height, longer_px=width), facts
    return InputResolution(mode="fit", shorter_px=transform.min_size[-1], longer_px=transform.max_size), facts

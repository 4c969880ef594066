"""The builders of networks: which there are, what each does, and how to call one without surprises.

torchvision's, and one small detector of our own (`small`), which has no published weights and is there to be trained.

A builder may download (backbone weights), draw from the global random generator, and names its thresholds in one of two
ways; after this room none of that is visible. Quantised builders are left out: they run on CPUs only, and are the same
networks under another name.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision import models

from batchtag.errors import UsageError
from batchtag.models.small import SMALL_FASTER_RCNN, fasterrcnn_small_fpn
from batchtag.records import InputNeed

if TYPE_CHECKING:  # what builds a network needs no pydantic
    from batchtag.models.spec import Task

_FLAG = {"detect": "--detector", "classify": "--classifier"}
_NOUN = {"detect": "detector", "classify": "classifier"}


def builders(task: Task) -> list[str]:
    """The names of torchvision's builders for a task, sorted."""
    module = models.detection if task == "detect" else models
    return list(models.list_models(module=module))


def task_of(builder: str, *, asked: str = "") -> Task:
    """What a builder's network does. `asked` is the task the user wants of it, "" for any.

    Raises UsageError, with the nearest names, if there is no such builder, and if it does the other task.
    """
    tasks: dict[str, Task] = {name: task for task in ("detect", "classify") for name in builders(task)}
    tasks[SMALL_FASTER_RCNN] = "detect"
    if builder not in tasks:
        near = difflib.get_close_matches(builder.lower(), tasks, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`batchtag models` lists all"
        raise UsageError(f"there is no detection or classification builder {builder!r}; {advice}")
    task = tasks[builder]
    if asked and asked != task:
        raise UsageError(
            f"{builder} is a {_NOUN[task]}, and was asked for as a {_NOUN[asked]}; "
            f"give it with {_FLAG[task]} (task: {task}), or choose another with `batchtag models --task {asked}`"
        )
    return task


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


def detector_need(builder: str, arguments: Mapping[str, Any]) -> tuple[InputNeed, dict[str, Any]]:
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
        return InputNeed(mode="stretch", shorter_px=height, longer_px=width), facts
    return InputNeed(mode="fit", shorter_px=transform.min_size[-1], longer_px=transform.max_size), facts


def published_gflops(builder: str) -> float:
    """The work for one image with the builder's best published weights; 0 if torchvision does not say."""
    if builder == SMALL_FASTER_RCNN:
        return 0.0
    return float(models.get_model_weights(builder).DEFAULT.meta.get("_ops", 0.0))


def has_published_weights(builder: str) -> bool:
    """Whether torchvision publishes weights of this builder."""
    return builder != SMALL_FASTER_RCNN

"""The network of a training job: made as the job says, and checked before Ray or an image is waited for."""

from __future__ import annotations

from typing import Any

import torch

from batchtag.config.training import TrainSpec
from batchtag.errors import UsageError
from batchtag.models import prepare
from batchtag.models.torchvision import zoo
from batchtag.tasks import Task
from batchtag.training.plan import TrainPlan
from batchtag.training.start import start_of
from batchtag.training.trainable import Trainable, make_trainable
from batchtag.types import InputResolution

_ONLY = {"detect": ("min_size", "max_size"), "classify": ("resize_size", "crop_size")}
_NOUN = {"detect": "a detector", "classify": "a classifier"}
_NEEDS_REAL_TENSORS = "regnet"
"""RegNet's builders compute their widths with tensors, which the meta device cannot."""


def check_network(spec: TrainSpec) -> Task:
    """What the network of a job does, if nothing is wrong with it. Runs on the driver, and fetches what it starts from.

    The network is built on the meta device, for two classes: a second at most, and no memory. Raises UsageError for a
    builder that is not there and settings that are not its own, ModelError for arguments it does not take and weights
    that cannot be had.
    """
    task = zoo.task_of(spec.network.architecture)
    device = "cpu" if spec.network.architecture.startswith(_NEEDS_REAL_TENSORS) else "meta"
    with torch.device(device):
        make_trainable(
            spec.network.architecture,
            arguments=spec.network.arguments,
            labels=("a", "b"),
            task=task,
            preprocessing=preprocessing_asked(spec, task=task),
            start=None,
            seed=0,
        )
    start = start_of(spec.network, task=task)
    if start is not None:
        prepare(start)
    return task


def make_plan_network(plan: TrainPlan) -> Trainable:
    """The network of a training job, with the weights it starts from."""
    spec = plan.spec
    return make_trainable(
        spec.network.architecture,
        arguments=spec.network.arguments,
        labels=plan.labels,
        task=plan.task,
        preprocessing=preprocessing_asked(spec, task=plan.task),
        start=start_of(spec.network, task=plan.task),
        seed=spec.train.seed,
    )


def preprocessing_asked(spec: TrainSpec, *, task: Task) -> dict[str, Any]:
    """What a job says of preprocessing in the checkpoint's words. Raises UsageError for settings of the other task."""
    said = spec.input
    other: Task = "classify" if task == "detect" else "detect"
    foreign = [f"input.{name}" for name in _ONLY[other] if getattr(said, name) is not None]
    if foreign:
        known = " and ".join(f"input.{name}" for name in _ONLY[task])
        raise UsageError(
            f"{' and '.join(foreign)} cannot be said of {_NOUN[task]}, and {spec.network.architecture} is one; "
            f"it has {known}"
        )
    sizes = {name: getattr(said, name) for name in _ONLY[task]}
    if task == "detect":
        return sizes | {"image_mean": said.mean and list(said.mean), "image_std": said.std and list(said.std)}
    return sizes | {"mean": said.mean, "std": said.std}


def training_resolution(made: Trainable, spec: TrainSpec) -> InputResolution:
    """How many pixels training wants: more than the model, by as much as it enlarges."""
    input_resolution = made.input_resolution
    if made.task == "classify":
        more = 1 / spec.augment.least_area**0.5
        return InputResolution(mode="cover", shorter_px=round(made.preprocessing["crop_size"] * more))
    more = spec.augment.scale[1] * (2.0 if spec.augment.crop else 1.0)
    return InputResolution(
        mode=input_resolution.mode,
        shorter_px=round(input_resolution.shorter_px * more),
        longer_px=round(input_resolution.longer_px * more),
    )

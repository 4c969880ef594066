"""The network of a training job: checked on the driver before Ray starts, and built in each training process."""

from __future__ import annotations

import torch

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.config.training import NetworkSpec, TrainSpec
from batchtag.models import prepare
from batchtag.models.torchvision import zoo
from batchtag.storage import absolute_uri, scheme_of
from batchtag.tasks import Task
from batchtag.training.plan import TrainPlan
from batchtag.training.preprocessing import requested_preprocessing
from batchtag.training.trainable import Trainable, make_trainable
from batchtag.types import InputResolution

_NEEDS_REAL_TENSORS = "regnet"
"""RegNet's builders compute their widths with tensors, which fails on the meta device."""


def check_network(spec: TrainSpec) -> Task:
    """Check the network of a job and return its task. Runs on the driver; fetches the starting weights.

    The network is built on the meta device for two classes, which takes a second at most and no memory. Raises
    UsageError for an unknown builder and for settings of the other task, ModelError for arguments that the builder does
    not take and for weights that cannot be fetched.
    """
    task = zoo.resolve_task(spec.network.architecture)
    device = "cpu" if spec.network.architecture.startswith(_NEEDS_REAL_TENSORS) else "meta"
    with torch.device(device):
        make_trainable(
            spec.network.architecture,
            task=task,
            labels=("a", "b"),
            arguments=spec.network.arguments,
            preprocessing=requested_preprocessing(spec, task=task),
        )
    starting_model = parse_start(spec.network, task=task)
    if starting_model is not None:
        prepare(starting_model)
    return task


def build_network(plan: TrainPlan) -> Trainable:
    """Build the network of a training with its starting weights. Runs in each training process."""
    spec = plan.spec
    return make_trainable(
        spec.network.architecture,
        task=plan.task,
        labels=plan.labels,
        arguments=spec.network.arguments,
        preprocessing=requested_preprocessing(spec, task=plan.task),
        starting_model=parse_start(spec.network, task=plan.task),
        seed=spec.train.seed,
    )


def parse_start(spec: NetworkSpec, *, task: Task) -> TorchvisionSpec | CheckpointSpec | None:
    """Return the model that network.start names, whose weights the training starts from; None for random weights."""
    if spec.start.lower() == "none":
        return None
    if spec.start.startswith("torchvision:"):
        builder, _, weights = spec.start.removeprefix("torchvision:").partition("@")
        return TorchvisionSpec(builder=builder, weights=weights or "DEFAULT")
    if "/" in spec.start or scheme_of(spec.start) != "file":
        return CheckpointSpec(uri=absolute_uri(spec.start), storage_options=spec.storage_options, task=task)
    return TorchvisionSpec(builder=spec.architecture, weights=spec.start, task=task)


def training_resolution(trainable: Trainable, spec: TrainSpec) -> InputResolution:
    """Return the resolution that training images are decoded at: the model's, times the largest enlargement."""
    resolution = trainable.input_resolution
    if trainable.task == "classify":
        enlargement = 1 / spec.augment.least_area**0.5
        crop_size = trainable.preprocessing["crop_size"]
        return InputResolution(mode="cover", shorter_px=round(crop_size * enlargement))
    enlargement = spec.augment.scale[1] * (2.0 if spec.augment.crop else 1.0)
    return InputResolution(
        mode=resolution.mode,
        shorter_px=round(resolution.shorter_px * enlargement),
        longer_px=round(resolution.longer_px * enlargement),
    )

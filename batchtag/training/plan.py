"""The plan of a training: what every training process must know, and how the cores of a node are shared.

Arithmetic only, without torch. A training process gets cores for torch and for the loader processes beside it. On two
cores they compete: torch's threads wait for each other in a busy loop, so a core that is taken from one of them slows
the others down too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchtag.config.training import TrainSpec
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.validate import CheckedData
from batchtag.errors import UsageError
from batchtag.tasks import Task

_MAX_LOADERS = 8
"""Most loader processes for one training process on a GPU, unless the job file asks for more."""
_METRICS = {"detect": ("AP", "AP50"), "classify": ("accuracy", "macro_f1")}
"""Metrics that can decide which epoch is the best, by task; the first is the default."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Everything that a training process must know. It is sent whole to each process."""

    spec: TrainSpec
    task: Task
    labels: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]
    data_digest: str
    train_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Storage options for the images of `train`."""
    val_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    num_loaders: int = 1
    """Processes that open and augment images for one training process; 0: the training process does so itself."""
    num_torch_threads: int = 1
    """Threads of torch in each training process."""


def plan_training(spec: TrainSpec, data: CheckedData, *, use_gpu: bool, cores: int) -> TrainPlan:
    """Plan a training whose processes have `cores` cores each (see `cores_per_process`).

    Raises UsageError for a metric of the other task, and for fewer images than training processes.
    """
    task = data.train.task
    metric = spec.train.metric
    if metric != "auto" and metric not in _METRICS[task]:
        known = " or ".join(_METRICS[task])
        raise UsageError(f"train.metric is {metric!r}, but the task of the data is {task!r}; it must be {known}")
    num_images = len(data.train.images)
    if num_images < spec.compute.workers:
        raise UsageError(
            f"compute.workers is {spec.compute.workers}, but there are only {num_images} images to train on; "
            f"each worker needs at least one. Set compute.workers to {num_images} or less"
        )
    setting = spec.compute.loaders
    num_loaders = (min(_MAX_LOADERS, cores) if use_gpu else 1) if setting == "auto" else setting
    return TrainPlan(
        spec=spec,
        task=task,
        labels=data.train.labels,
        train=data.train.images,
        val=data.val.images,
        data_digest=data.digest,
        train_options=data.train.storage_options,
        val_options=data.val.storage_options,
        num_loaders=num_loaders,
        num_torch_threads=max(1, cores - num_loaders) if num_loaders else cores,
    )


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    cores: int
    gpus: int


def cores_per_process(nodes: Sequence[Node], *, num_processes: int, use_gpu: bool) -> int:
    """Return the most cores that each training process can have while all of them run at once.

    Raises UsageError if they cannot all run at once, because Ray would wait for more machines without an end.
    """

    def num_fitting(cores: int) -> int:
        return sum(min(node.cores // cores, node.gpus) if use_gpu else node.cores // cores for node in nodes)

    if num_fitting(1) < num_processes:
        raise UsageError(_too_many_processes(nodes, num_processes=num_processes, most=num_fitting(1), use_gpu=use_gpu))
    most_cores = max(node.cores for node in nodes)
    return max(cores for cores in range(1, most_cores + 1) if num_fitting(cores) >= num_processes)


def _too_many_processes(nodes: Sequence[Node], *, num_processes: int, most: int, use_gpu: bool) -> str:
    cluster = f"{sum(node.cores for node in nodes)} cores and {sum(node.gpus for node in nodes)} GPUs"
    if not most:
        return f"compute.device asks for a GPU for each worker, but the cluster has {cluster}; set it to auto or cpu"
    each = "a GPU and a core" if use_gpu else "a core"
    return (
        f"compute.workers is {num_processes} and each worker needs {each}, but the cluster has {cluster}; "
        f"set compute.workers to {most} or less"
    )


def best_epoch_metric(plan: TrainPlan) -> str:
    """Return the name of the metric by which the best epoch is chosen; the epoch with the highest value wins."""
    metric = plan.spec.train.metric
    return _METRICS[plan.task][0] if metric == "auto" else metric

"""What every training process is told, and how the cores of a node are shared: arithmetic, no torch.

The process that trains gets its cores for torch, and one process for each opens images beside it. On two cores they
compete: torch's threads wait for each other busily, so a core that is taken away costs the others too.
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

_MOST_LOADERS = 8
_FIGURES = {"detect": ("AP", "AP50"), "classify": ("accuracy", "macro_f1")}

News = dict[str, Any]
"""What a worker tells the driver: `kind` is "begin", "step", "judging", "epoch", "end" or "failed", and its figures."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """All that a training process must know; travels to it whole."""

    spec: TrainSpec
    task: Task
    labels: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]
    data_digest: str
    train_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    val_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    processes: int = 1
    """That open images for one worker."""
    threads: int = 1
    """Of torch in each worker."""


def plan_training(spec: TrainSpec, data: CheckedData, *, use_gpu: bool, cores: int) -> TrainPlan:
    """The plan for workers of so many cores each (`cores_of_a_worker`).

    Raises UsageError for a metric of the other task, and for fewer images than workers.
    """
    task = data.train.task
    asked = spec.train.metric
    if asked != "auto" and asked not in _FIGURES[task]:
        known = " or ".join(_FIGURES[task])
        raise UsageError(f"train.metric is {asked!r}, and these data are to {task}; it must be {known}")
    if len(data.train.images) < spec.compute.workers:
        raise UsageError(
            f"compute.workers is {spec.compute.workers}, and there are {len(data.train.images)} images to train on; "
            "each worker must have one"
        )
    asked_loaders = spec.compute.loaders
    loaders = (min(_MOST_LOADERS, cores) if use_gpu else 1) if asked_loaders == "auto" else asked_loaders
    return TrainPlan(
        spec=spec,
        task=task,
        labels=data.train.labels,
        train=data.train.images,
        val=data.val.images,
        data_digest=data.digest,
        train_options=data.train.storage_options,
        val_options=data.val.storage_options,
        processes=loaders,
        threads=max(1, cores - loaders) if loaders else cores,
    )


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    cores: int
    gpus: int


def cores_of_a_worker(nodes: Sequence[Node], *, workers: int, use_gpu: bool) -> int:
    """The most cores that each of the workers can have at once.

    Raises UsageError where they do not fit all together: Ray would wait for more machines without an end.
    """

    def room(cores: int) -> int:
        return sum(min(node.cores // cores, node.gpus) if use_gpu else node.cores // cores for node in nodes)

    if room(1) < workers:
        what = "a GPU and a core" if use_gpu else "a core"
        there = f"{sum(node.cores for node in nodes)} cores and {sum(node.gpus for node in nodes)} GPUs"
        raise UsageError(
            f"compute.workers is {workers}, each needs {what}, and there are {there}; compute.workers can be "
            f"{room(1)} at most"
            if room(1)
            else f"compute.device asks for a GPU for each worker, and there are {there}; set it to auto or cpu"
        )
    return max(cores for cores in range(1, max(node.cores for node in nodes) + 1) if room(cores) >= workers)


def metric_of(plan: TrainPlan) -> str:
    """The name of the figure that the best epoch has most of."""
    asked = plan.spec.train.metric
    if asked != "auto":
        return asked
    return "AP" if plan.task == "detect" else "accuracy"

"""Everything that torchvision publishes for our tasks, with the figures one chooses by.

The figures are the publisher's own: box mAP on COCO-val2017, top-1 on ImageNet-1K. They rank models of one task and say
nothing across tasks, so each task has its own order. A model of one label (Keypoint R-CNN finds persons) is measured on
an easier question, and comes after the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torchvision.models import WeightsEnum, get_model_weights

from batchtag.models.architectures import builders
from batchtag.models.cards import tag_labels
from batchtag.models.spec import Task
from batchtag.models.torchvision import usable_weights

_METRIC = {"detect": ("COCO-val2017", "box_map"), "classify": ("ImageNet-1K", "acc@1")}


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A builder with one of its weights. `metric` is in percent; `num_tags` counts the labels that can become tags."""

    name: str
    task: Task
    weights: str
    is_default: bool
    metric_name: str
    metric: float
    num_params: int
    size_mb: float
    gflops: float
    num_tags: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def catalog(*, task: Task | None = None, only_default: bool = False) -> list[CatalogEntry]:
    """All entries: detectors first, the best of a task first. `only_default` gives one entry a builder."""
    tasks: tuple[Task, ...] = (task,) if task else ("detect", "classify")
    entries = [
        _entry(builder, weights, task=one)
        for one in tasks
        for builder in builders(one)
        for weights in usable_weights(builder).values()
    ]
    chosen = [entry for entry in entries if entry.is_default or not only_default]
    return sorted(chosen, key=lambda entry: (tasks.index(entry.task), entry.num_tags == 1, -entry.metric, entry.name))


def _entry(builder: str, weights: WeightsEnum, *, task: Task) -> CatalogEntry:
    data_set, metric = _METRIC[task]
    meta = weights.meta
    return CatalogEntry(
        name=builder,
        task=task,
        weights=weights.name,
        is_default=weights is get_model_weights(builder).DEFAULT,
        metric_name=f"{metric} {data_set}",
        metric=float(meta["_metrics"][data_set][metric]),
        num_params=meta["num_params"],
        size_mb=float(meta["_file_size"]),
        gflops=float(meta["_ops"]),
        num_tags=sum(1 for label in tag_labels(meta["categories"], task=task) if label),
    )

"""Everything that torchvision publishes for our tasks, with the figures one chooses by.

The figures are the publisher's own: box mAP on COCO-val2017, top-1 on ImageNet-1K. They rank models of one task and say
nothing across tasks, so each task has its own order. A model of one label (Keypoint R-CNN finds persons) is measured on
an easier question, and comes after the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchtag.models.info import tag_labels
from batchtag.models.torchvision.zoo import builder, builders
from batchtag.models.torchvision.zoo_table import Builder
from batchtag.tasks import Task

_METRIC = {"detect": "box_map COCO-val2017", "classify": "acc@1 ImageNet-1K"}


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
        _entry(found, weights) for one in tasks for found in map(builder, builders(one)) for weights in found.weights
    ]
    chosen = [entry for entry in entries if entry.is_default or not only_default]
    return sorted(chosen, key=lambda entry: (tasks.index(entry.task), entry.num_tags == 1, -entry.metric, entry.name))


def _entry(found: Builder, name: str) -> CatalogEntry:
    weights = found.weights[name]
    return CatalogEntry(
        name=found.name,
        task=found.task,
        weights=name,
        is_default=name == found.default,
        metric_name=_METRIC[found.task],
        metric=weights.metric,
        num_params=weights.num_params,
        size_mb=weights.size_mb,
        gflops=weights.gflops,
        num_tags=sum(1 for label in tag_labels(weights.categories, task=found.task) if label),
    )

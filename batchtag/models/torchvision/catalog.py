"""The catalog: all models that torchvision publishes for our tasks, with the figures to choose by.

The figures are the publisher's own: box mAP on COCO-val2017, top-1 accuracy on ImageNet-1K. They rank models of one
task and cannot be compared between tasks, so each task has its own order. A model with one label (Keypoint R-CNN finds
persons only) has an easier question to answer, and is listed after the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchtag.models.info import tag_labels
from batchtag.models.torchvision.zoo import get_builder, list_builders
from batchtag.models.torchvision.zoo_table import PUBLISHED_METRICS, Builder
from batchtag.tasks import TASKS, Task


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A builder with one of its weights. `metric` is in percent; `num_tags` is the number of its tags."""

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


def list_catalog(*, task: Task | None = None, only_default: bool = False) -> list[CatalogEntry]:
    """Return all entries: detectors first, and the best of each task first.

    `only_default` leaves the best weights of each builder.
    """
    tasks: list[Task] = [task] if task else list(TASKS)
    entries = [
        _make_entry(builder, weights_name)
        for each in tasks
        for builder in map(get_builder, list_builders(each))
        for weights_name in builder.weights
    ]
    chosen = [entry for entry in entries if entry.is_default or not only_default]
    return sorted(chosen, key=lambda entry: (tasks.index(entry.task), entry.num_tags == 1, -entry.metric, entry.name))


def _make_entry(builder: Builder, weights_name: str) -> CatalogEntry:
    weights = builder.weights[weights_name]
    data_set, metric = PUBLISHED_METRICS[builder.task]
    return CatalogEntry(
        name=builder.name,
        task=builder.task,
        weights=weights_name,
        is_default=weights_name == builder.default,
        metric_name=f"{metric} {data_set}",
        metric=weights.metric,
        num_params=weights.num_params,
        size_mb=weights.size_mb,
        gflops=weights.gflops,
        num_tags=sum(1 for label in tag_labels(weights.categories, task=builder.task) if label),
    )

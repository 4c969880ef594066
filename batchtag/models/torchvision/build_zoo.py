"""The facts of torchvision's builders, from torchvision itself. Run as a command, it writes the table zoo.json:

python -m batchtag.models.torchvision.build_zoo
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torchvision import models

from batchtag.models.downloads import file_name
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision.architectures import detector_resolution, untrained_arguments
from batchtag.models.torchvision.zoo_table import PUBLISHED_METRICS, TABLE, Builder, Weights, installed_torchvision
from batchtag.tasks import TASKS

if TYPE_CHECKING:
    from batchtag.tasks import Task


def list_builders(task: Task) -> list[str]:
    """Return the names of the builders for a task, as `zoo.list_builders` does."""
    module = models.detection if task == "detect" else models
    return sorted(models.list_models(module=module))


def describe_builder(name: str, task: Task) -> Builder:
    """Return the facts of one builder, as `zoo.get_builder` does."""
    members = models.get_model_weights(name)
    data_set, metric = PUBLISHED_METRICS[task]
    weights: dict[str, Weights] = {}
    if task == "detect":
        input_resolution, preprocessing = detector_resolution(name, untrained_arguments(name, task=task))
    for member in members:
        meta: dict[str, Any] = member.meta
        if not meta["categories"]:
            continue  # IMAGENET1K_FEATURES of VGG16
        if task == "classify":
            preset = Preprocessing.from_preset(member.transforms())
            input_resolution, preprocessing = preset.input_resolution, preset.as_dict()
        weights[member.name] = Weights(
            file=file_name(member.url),
            categories=tuple(meta["categories"]),
            input_resolution=input_resolution,
            preprocessing=preprocessing,
            gflops=float(meta.get("_ops", 0.0)),
            num_params=meta["num_params"],
            size_mb=float(meta["_file_size"]),
            metric=float(meta.get("_metrics", {}).get(data_set, {}).get(metric, 0.0)),
        )
    return Builder(name=name, task=task, default=members.DEFAULT.name, weights=weights)


def make_table() -> dict[str, Any]:
    """Return the content of zoo.json. Lists of categories are numbered, because many weights share them."""
    categories: list[list[str]] = []
    rows: dict[str, Any] = {}
    for builder in (describe_builder(name, task) for task in TASKS for name in list_builders(task)):
        facts = asdict(builder)
        for weights in facts["weights"].values():
            labels = list(weights["categories"])
            if labels not in categories:
                categories.append(labels)
            weights["categories"] = categories.index(labels)
        rows[facts.pop("name")] = facts
    table: dict[str, Any] = json.loads(json.dumps({"torchvision": installed_torchvision(), "builders": rows}))
    return table | {"categories": categories}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(make_table(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

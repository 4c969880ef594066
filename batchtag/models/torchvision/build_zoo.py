"""What torchvision itself says of its builders, in the words of `published`, whose table this writes:

python -m batchtag.models.survey
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torchvision import models

from batchtag.models.downloads import file_name
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision.architectures import detector_resolution, untrained_arguments
from batchtag.models.torchvision.zoo_table import TABLE, Builder, Weights, installed

if TYPE_CHECKING:
    from batchtag.tasks import Task

_METRIC = {"detect": ("COCO-val2017", "box_map"), "classify": ("ImageNet-1K", "acc@1")}


def names(task: Task) -> list[str]:
    """As `published.builders`."""
    module = models.detection if task == "detect" else models
    return sorted(models.list_models(module=module))


def builder(name: str, task: Task) -> Builder:
    """As `published.builder`."""
    members = models.get_model_weights(name)
    data_set, metric = _METRIC[task]
    weights: dict[str, Weights] = {}
    if task == "detect":
        input_resolution, preprocessing = detector_resolution(name, untrained_arguments(name, task=task))
    for member in members:
        meta: dict[str, Any] = member.meta
        if not meta["categories"]:
            continue  # VGG16's IMAGENET1K_FEATURES
        if task == "classify":
            preset = Preprocessing.of_preset(member.transforms())
            input_resolution, preprocessing = preset.input_resolution, preset.facts()
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


def table() -> dict[str, Any]:
    """The content of published.json. Lists of categories, which many share, are numbered."""
    tasks: tuple[Task, ...] = ("detect", "classify")
    categories: list[list[str]] = []
    rows: dict[str, Any] = {}
    for one in (builder(name, task) for task in tasks for name in names(task)):
        facts = asdict(one)
        for weights in facts["weights"].values():
            labels = list(weights["categories"])
            if labels not in categories:
                categories.append(labels)
            weights["categories"] = categories.index(labels)
        rows[facts.pop("name")] = facts
    plain: dict[str, Any] = json.loads(json.dumps({"torchvision": installed(), "builders": rows}))
    return plain | {"categories": categories}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

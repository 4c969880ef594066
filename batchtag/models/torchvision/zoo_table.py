"""The table of torchvision's builders on disk (zoo.json): the contents of a row, and the place of the file.

`zoo` reads the table, `build_zoo` writes it. Knows neither torch nor torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from batchtag.tasks import Task
from batchtag.types import InputResolution

SMALL_FASTER_RCNN = "fasterrcnn_small_fpn"
"""Name of our own small detector (`small_faster_rcnn`), which has no published weights and is meant to be trained."""
SMALL_SIZES = {"min_size": 320, "max_size": 640}
"""Sides in pixels to which the small detector resizes images by default."""
TABLE = Path(__file__).with_name("zoo.json")
"""The file of the table."""
PUBLISHED_METRICS: Mapping[Task, tuple[str, str]] = {
    "detect": ("COCO-val2017", "box_map"),
    "classify": ("ImageNet-1K", "acc@1"),
}
"""Data set and metric of the publisher's figures, by task."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of published weights: its name, categories and input, and the publisher's figures.

    `preprocessing` has the fields of `preprocessing.Preprocessing` for a classifier, and what
    `architectures.detector_resolution` returns for a detector. `metric` is in percent: box mAP on COCO-val2017, or
    top-1 accuracy on ImageNet-1K.
    """

    file: str
    categories: tuple[str, ...]
    input_resolution: InputResolution
    preprocessing: Mapping[str, Any]
    gflops: float
    num_params: int
    size_mb: float
    metric: float


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A builder and its weights by name, without those that have no categories. `default` is the name of the best."""

    name: str
    task: Task
    default: str
    weights: Mapping[str, Weights]


def installed_torchvision() -> str:
    """Return the version of the installed torchvision without its build tag; "" if none is known."""
    try:
        return version("torchvision").partition("+")[0]
    except PackageNotFoundError:
        return ""

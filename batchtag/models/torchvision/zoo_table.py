"""The table of torchvision's builders on disk: what an entry holds, and where the file lies.

Knows neither torch nor torchvision. `zoo` reads the table, `build_zoo` writes it.
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
"""Our own small detector, which has no published weights and is there to be trained (`small`)."""
SMALL_SIZES = {"min_size": 320, "max_size": 640}
"""What it resizes images to, unless told otherwise."""
TABLE = Path(__file__).with_name("zoo.json")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of weights: its name, what it says, the pixels that it wants, and its publisher's figures.

    `preprocessing` has the fields of `classifier.Preprocessing`, or what `architectures.detector_resolution` says of a
    detector. `metric` is in percent: box mAP on COCO-val2017, or top-1 on ImageNet-1K.
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
    """A builder, and its weights by name, less those that tell no categories. `default` is the name of the best."""

    name: str
    task: Task
    default: str
    weights: Mapping[str, Weights]


def installed() -> str:
    """The version of torchvision that is here, without the name of its build; "" if none is known."""
    try:
        return version("torchvision").partition("+")[0]
    except PackageNotFoundError:
        return ""

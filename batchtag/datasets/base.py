"""The records of labelled data that the rest of the package and its users share: image, problem, dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchtag.console import escape_unprintable
from batchtag.tasks import Task


def _no_areas() -> NDArray[np.float64]:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """One image and its ground truth, as annotated.

    `label_ids` (N,) int64 counts the dataset's own labels from 0, without a background class. A detection dataset has
    `boxes_xyxy` (N, 4) float64 in pixels of the displayed image, `areas` (N,) float64 in px2 (COCO's: the area of the
    segmentation if there is one; it decides the size class) and `is_crowd` (N,) bool (COCO's: a crowd counts neither as
    found nor as missed). A classified image has one label id and (0, 4) boxes. `width` and `height` are as displayed;
    until the image is opened they are as annotated, 0 if unknown. `content_hash` is "" until then. `image_id` is the
    image's id in the annotations, "" if only its URI identifies it.
    """

    uri: str
    label_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4), np.float64))
    areas: NDArray[np.float64] = field(default_factory=_no_areas)
    is_crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    width: int = 0
    height: int = 0
    content_hash: str = ""
    image_id: str = ""

    def __post_init__(self) -> None:
        n = len(self.boxes_xyxy)
        if self.boxes_xyxy.shape != (n, 4) or self.areas.shape != (n,) or self.is_crowd.shape != (n,):
            shapes = f"{self.boxes_xyxy.shape}, {self.areas.shape} and {self.is_crowd.shape}"
            raise ValueError(f"boxes_xyxy, areas and is_crowd must have shapes (N, 4), (N,) and (N,), got {shapes}")
        if n and self.label_ids.shape != (n,):
            raise ValueError(f"label_ids must have shape ({n},), got {self.label_ids.shape}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One mistake in labelled data. `kind` is a field of `OnProblem`; `uri` is the file in which to look.

    `image` is the URI of the image concerned, if that is another file. `label` is the class that has no examples.
    """

    kind: str
    uri: str
    detail: str
    image: str = ""
    label: str = ""

    def __str__(self) -> str:
        return escape_unprintable(f"{self.uri}: {self.detail}")

    @property
    def image_uri(self) -> str:
        """The URI of the image that the problem is about."""
        return self.image or self.uri


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled images of one split, in the order of their annotations.

    `labels[i]` is the class of label id i. With `boxes_are_fractions` (YOLO, until `validate` has opened the images)
    boxes are (x_min, y_min, x_max, y_max) from 0 to 1 of the displayed image, and `areas` mean nothing.
    `storage_options` open the images; `repr` does not show them.
    """

    task: Task
    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    problems: tuple[Problem, ...] = ()
    boxes_are_fractions: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

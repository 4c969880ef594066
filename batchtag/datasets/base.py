"""What every kind of labelled data becomes: a Dataset, and the problems that were met on the way.

A kind reads its files into `Annotated` images, whose objects still have names; `as_dataset` gives the names numbers,
in one place, so that an unknown class is the same problem everywhere. A reader never gives up at the first problem and
never decides what one means: it leaves out what cannot be used, notes it, and `check` looks up what the job says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batchtag.console import printable

Task = Literal["detect", "classify"]
Box = tuple[float, float, float, float]


def _no_numbers() -> NDArray[np.float64]:
    return np.zeros(0, np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """One image and what is truly on it, as somebody labelled it.

    `label_ids` (N,) int64 counts the dataset's own labels from 0, without a background. `boxes_xyxy` (N, 4) float64 in
    pixels of the displayed image, `areas` (N,) float64 px2 (COCO's: the segmentation's where there is one, which size
    classes go by) and `is_crowd` (N,) bool (neither found nor missed counts there) belong to a detection dataset; a
    classified image has one label id and (0, 4) boxes. `width` and `height` are as displayed; they and `content_hash`
    are 0 and "" until the image was opened, or say what the annotations say. `image_id` is what the annotations
    call it, "" if only its URI names it.
    """

    uri: str
    label_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4), np.float64))
    areas: NDArray[np.float64] = field(default_factory=_no_numbers)
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
    """One thing that is wrong with labelled data. `kind` is a field of `OnProblem`; `uri` is the file to look at.

    `image` is the URI of the image that the problem is about, if that is another file; `label` is the
    class that has no examples.
    """

    kind: str
    uri: str
    detail: str
    image: str = ""
    label: str = ""

    def __str__(self) -> str:
        return printable(f"{self.uri}: {self.detail}")

    @property
    def image_uri(self) -> str:
        """The image that it is about."""
        return self.image or self.uri


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled images of one split, in the order of their annotations.

    `labels[i]` is what label id i of the `images` means. With `boxes_are_fractions` (YOLO, until `check` has opened the
    images) boxes are (x_min, y_min, x_max, y_max) in 0 to 1 of the displayed image, and areas mean nothing.
    `storage_options` open the images; they are not shown.
    """

    task: Task
    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    problems: tuple[Problem, ...] = ()
    boxes_are_fractions: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotated:
    """One image as its annotations describe it: a class name for each object, or the one class of the image.

    `boxes` belong to `names` one to one; a classified image has none. Empty `areas` are those of the boxes, empty
    `crowds` are none. `width` and `height` are as annotated, 0 if nothing says them. `source` is the file of the
    annotations, if it is not the image.
    """

    uri: str
    names: Sequence[str]
    boxes: Sequence[Box] = ()
    areas: Sequence[float] = ()
    crowds: Sequence[bool] = ()
    width: int = 0
    height: int = 0
    image_id: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader brings home. `labels` are those that the files declare, in order; empty if they declare none."""

    task: Task
    images: Sequence[Annotated]
    problems: Sequence[Problem]
    labels: Sequence[str] = ()
    boxes_are_fractions: bool = False


def as_dataset(found: Found, *, labels: Sequence[str], storage_options: Mapping[str, Any]) -> Dataset:
    """The images with label ids: of `labels` if given, else of those declared, else of those found, sorted.

    Objects of other classes are left out; a classified image of another class goes with its class.
    """
    order = tuple(labels or found.labels or sorted({name for one in found.images for name in one.names}))
    ids = {label: number for number, label in enumerate(order)}
    problems = list(found.problems)
    images = []
    for one in found.images:
        problems += _unknown(one, ids)
        if found.task == "detect" or all(name in ids for name in one.names):
            images.append(_labelled(one, ids))
    return Dataset(
        task=found.task,
        labels=order,
        images=tuple(images),
        problems=tuple(problems),
        boxes_are_fractions=found.boxes_are_fractions,
        storage_options=storage_options,
    )


def _unknown(one: Annotated, ids: Mapping[str, int]) -> list[Problem]:
    """One problem for each unknown class, not for each of its objects."""
    strangers = Counter(name for name in one.names if name not in ids)
    if not strangers:
        return []
    known = ", ".join(map(repr, list(ids)[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return [
        Problem(
            kind="unknown_class",
            uri=one.source or one.uri,
            image=one.uri,
            detail=f"{_objects(count) if one.boxes else 'the image'} of class {name!r}; the classes are {known}",
        )
        for name, count in strangers.items()
    ]


def _objects(count: int) -> str:
    return "an object" if count == 1 else f"{count} objects"


def _labelled(one: Annotated, ids: Mapping[str, int]) -> LabelledImage:
    kept = [number for number, name in enumerate(one.names) if name in ids]
    label_ids = np.array([ids[one.names[number]] for number in kept], np.int64)
    if not one.boxes:
        return LabelledImage(
            uri=one.uri, label_ids=label_ids, width=one.width, height=one.height, image_id=one.image_id
        )
    boxes = np.array([one.boxes[number] for number in kept], np.float64).reshape(-1, 4)
    areas = [one.areas[number] if one.areas else area_of(one.boxes[number]) for number in kept]
    return LabelledImage(
        uri=one.uri,
        label_ids=label_ids,
        boxes_xyxy=boxes,
        areas=np.array(areas, np.float64),
        is_crowd=np.array([bool(one.crowds[number]) if one.crowds else False for number in kept], np.bool_),
        width=one.width,
        height=one.height,
        image_id=one.image_id,
    )


def area_of(box: Box) -> float:
    """Width by height, in px2; 0 for a box turned inside out."""
    x_min, y_min, x_max, y_max = box
    return max(0.0, x_max - x_min) * max(0.0, y_max - y_min)


def finite(values: Iterable[Any]) -> list[float]:
    """The values as numbers. Raises ValueError for one that is none, or not finite, or a yes or no."""
    numbers = []
    for value in values:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{str(value)[:40]!r} is not a number")
        numbers.append(number)
    return numbers


def first_of(images: Sequence[Annotated], limit: int | None, *, task: Task) -> Sequence[Annotated]:
    """At most `limit` of the images, in order; of classified ones the first of each class in turn."""
    if limit is None or limit >= len(images):
        return images
    if task == "detect":
        return images[:limit]
    seen: Counter[str] = Counter()
    turns = []
    for number, one in enumerate(images):
        turns.append((seen[one.names[0]], number))
        seen[one.names[0]] += 1
    return [images[number] for number in sorted(number for _, number in sorted(turns)[:limit])]

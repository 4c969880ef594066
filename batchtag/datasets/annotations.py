"""What a reader of annotations returns, and how it becomes a Dataset.

A reader returns objects with class names; `build_dataset` gives the classes numbers, in one place, so that an unknown
class is the same problem in every format. The contract of the readers is in `datasets.__init__`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchtag.datasets.base import Dataset, LabelledImage, Problem
from batchtag.tasks import Task

Box = tuple[float, float, float, float]
"""(x_min, y_min, x_max, y_max)."""

_LABELS_SHOWN = 8
"""Known classes that a message about an unknown class lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedImage:
    """One image as its annotations describe it, with class names instead of label ids.

    `class_names` has one name for each object, or the one class of the image. `boxes` belong to `class_names` one to
    one; a classified image has none. Empty `areas` mean the areas of the boxes, empty `is_crowd` means that no object
    is a crowd. `width` and `height` are as annotated, 0 if unknown. `annotation_uri` is the annotation file, "" if
    there is none.
    """

    uri: str
    class_names: Sequence[str]
    boxes: Sequence[Box] = ()
    areas: Sequence[float] = ()
    is_crowd: Sequence[bool] = ()
    width: int = 0
    height: int = 0
    image_id: str = ""
    annotation_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class ParsedAnnotations:
    """The result of a reader. `labels` are the classes that the files declare, in order; empty if they declare none."""

    task: Task
    images: Sequence[AnnotatedImage]
    problems: Sequence[Problem]
    labels: Sequence[str] = ()
    boxes_are_fractions: bool = False


def build_dataset(parsed: ParsedAnnotations, *, labels: Sequence[str], storage_options: Mapping[str, Any]) -> Dataset:
    """Give classes their label ids: from `labels`, else from the declared classes, else from the used ones, sorted.

    Objects of other classes are left out; a classified image of another class is left out as a whole.
    """
    used = {name for image in parsed.images for name in image.class_names}
    dataset_labels = tuple(labels or parsed.labels or sorted(used))
    id_by_name = {label: label_id for label_id, label in enumerate(dataset_labels)}
    problems = list(parsed.problems)
    images = []
    for image in parsed.images:
        problems += _unknown_class_problems(image, id_by_name)
        if parsed.task == "detect" or all(name in id_by_name for name in image.class_names):
            images.append(_label_image(image, id_by_name))
    return Dataset(
        task=parsed.task,
        labels=dataset_labels,
        images=tuple(images),
        problems=tuple(problems),
        boxes_are_fractions=parsed.boxes_are_fractions,
        storage_options=storage_options,
    )


def _unknown_class_problems(image: AnnotatedImage, id_by_name: Mapping[str, int]) -> list[Problem]:
    """Return one problem for each unknown class, not for each of its objects."""
    counts = Counter(name for name in image.class_names if name not in id_by_name)
    if not counts:
        return []
    known = ", ".join(map(repr, list(id_by_name)[:_LABELS_SHOWN]))
    if len(id_by_name) > _LABELS_SHOWN:
        known += f" and {len(id_by_name) - _LABELS_SHOWN} more"
    return [
        Problem(
            kind="unknown_class",
            uri=image.annotation_uri or image.uri,
            image=image.uri,
            detail=f"{_describe_objects(image, count)} of class {name!r}; the classes are {known}",
        )
        for name, count in counts.items()
    ]


def _describe_objects(image: AnnotatedImage, count: int) -> str:
    if not image.boxes:
        return "the image"
    return "an object" if count == 1 else f"{count} objects"


def _label_image(image: AnnotatedImage, id_by_name: Mapping[str, int]) -> LabelledImage:
    known = [index for index, name in enumerate(image.class_names) if name in id_by_name]
    label_ids = np.array([id_by_name[image.class_names[index]] for index in known], np.int64)
    if not image.boxes:
        return LabelledImage(
            uri=image.uri, label_ids=label_ids, width=image.width, height=image.height, image_id=image.image_id
        )
    boxes = np.array([image.boxes[index] for index in known], np.float64).reshape(-1, 4)
    areas = [image.areas[index] if image.areas else box_area(image.boxes[index]) for index in known]
    return LabelledImage(
        uri=image.uri,
        label_ids=label_ids,
        boxes_xyxy=boxes,
        areas=np.array(areas, np.float64),
        is_crowd=np.array([bool(image.is_crowd[index]) if image.is_crowd else False for index in known], np.bool_),
        width=image.width,
        height=image.height,
        image_id=image.image_id,
    )


def box_area(box: Box) -> float:
    """Return width x height of a box in px2; 0 if a maximum is less than its minimum."""
    x_min, y_min, x_max, y_max = box
    return max(0.0, x_max - x_min) * max(0.0, y_max - y_min)


def parse_numbers(values: Iterable[Any]) -> list[float]:
    """Convert values to finite numbers. Raises ValueError for any other value, booleans included."""
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


def limit_images(images: Sequence[AnnotatedImage], limit: int | None, *, task: Task) -> Sequence[AnnotatedImage]:
    """Return at most `limit` images, in order; of classified images, the first of each class in turn."""
    if limit is None or limit >= len(images):
        return images
    if task == "detect":
        return images[:limit]
    num_before: Counter[str] = Counter()
    turns = []
    for index, image in enumerate(images):
        class_name = image.class_names[0]
        turns.append((num_before[class_name], index))
        num_before[class_name] += 1
    return [images[index] for index in sorted(index for _, index in sorted(turns)[:limit])]

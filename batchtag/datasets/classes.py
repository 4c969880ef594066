"""Classes that nobody gave an example of: noticed, and taken out of the labels if the job says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchtag.datasets.base import Dataset, LabelledImage, Problem


def with_empty_classes(train: Dataset) -> Dataset:
    """`train` with a problem for each class that has no example, crowds not counted."""
    if not train.images:
        return train
    there = {int(label_id) for image in train.images for label_id in _examples(image)}
    known = {one.label for one in train.problems if one.kind == "empty_class"}
    found = [
        Problem(kind="empty_class", uri="train", label=label, detail=f"the class {label!r} has no example")
        for number, label in enumerate(train.labels)
        if number not in there and label not in known
    ]
    return replace(train, problems=(*train.problems, *found))


def _examples(image: LabelledImage) -> list[int]:
    ids = image.label_ids[~image.is_crowd] if len(image.is_crowd) else image.label_ids
    return [int(label_id) for label_id in ids]


def without_empty_classes(train: Dataset, val: Dataset) -> tuple[Dataset, Dataset]:
    """Both with the labels that `train` has examples of, their ids closed up; others' objects in `val` are left out."""
    gone = {one.label for one in train.problems if one.kind == "empty_class"}
    kept = [number for number, label in enumerate(train.labels) if label not in gone]
    new_ids = np.full(len(train.labels), -1, np.int64)
    new_ids[kept] = np.arange(len(kept))
    labels = tuple(train.labels[number] for number in kept)
    return _renumbered(train, labels, new_ids), _renumbered(val, labels, new_ids)


def _renumbered(dataset: Dataset, labels: tuple[str, ...], new_ids: NDArray[np.int64]) -> Dataset:
    images = []
    for image in dataset.images:
        ids = new_ids[image.label_ids]
        keep = ids >= 0
        if dataset.task == "classify":
            images += [replace(image, label_ids=ids)] if keep.all() else []
        else:
            images.append(
                replace(
                    image,
                    label_ids=ids[keep],
                    boxes_xyxy=image.boxes_xyxy[keep],
                    areas=image.areas[keep],
                    is_crowd=image.is_crowd[keep],
                )
            )
    return replace(dataset, images=tuple(images), labels=labels)

"""Classes without examples in `train`: found as problems, and removed from the labels if the job says `drop`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from batchtag.datasets.base import Dataset, LabelledImage, Problem


def add_empty_class_problems(train: Dataset) -> Dataset:
    """Return `train` with a problem for each class that has no example; crowds are not examples."""
    if not train.images:
        return train
    used_ids = {int(label_id) for image in train.images for label_id in _example_ids(image)}
    reported = {problem.label for problem in train.problems if problem.kind == "empty_class"}
    problems = [
        Problem(kind="empty_class", uri="train", label=label, detail=f"the class {label!r} has no example")
        for label_id, label in enumerate(train.labels)
        if label_id not in used_ids and label not in reported
    ]
    return replace(train, problems=(*train.problems, *problems))


def _example_ids(image: LabelledImage) -> list[int]:
    ids = image.label_ids[~image.is_crowd] if len(image.is_crowd) else image.label_ids
    return [int(label_id) for label_id in ids]


def drop_empty_classes(train: Dataset, val: Dataset) -> tuple[Dataset, Dataset]:
    """Return both splits with only the labels that `train` has examples of, renumbered from 0.

    Objects of the other classes in `val` are left out.
    """
    empty = {problem.label for problem in train.problems if problem.kind == "empty_class"}
    kept_ids = [label_id for label_id, label in enumerate(train.labels) if label not in empty]
    new_ids = np.full(len(train.labels), -1, np.int64)
    new_ids[kept_ids] = np.arange(len(kept_ids))
    labels = tuple(train.labels[label_id] for label_id in kept_ids)
    return _renumber_labels(train, labels, new_ids), _renumber_labels(val, labels, new_ids)


def _renumber_labels(dataset: Dataset, labels: tuple[str, ...], new_ids: NDArray[np.int64]) -> Dataset:
    """Replace each label id i by `new_ids[i]`; objects with -1 are left out."""
    images = []
    for image in dataset.images:
        ids = new_ids[image.label_ids]
        is_kept = ids >= 0
        if dataset.task == "classify":
            images += [replace(image, label_ids=ids)] if is_kept.all() else []
        else:
            images.append(
                replace(
                    image,
                    label_ids=ids[is_kept],
                    boxes_xyxy=image.boxes_xyxy[is_kept],
                    areas=image.areas[is_kept],
                    is_crowd=image.is_crowd[is_kept],
                )
            )
    return replace(dataset, images=tuple(images), labels=labels)

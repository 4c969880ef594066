"""Duplicates, leaks and the held-out share: which image belongs to which split.

Everything is decided by the content of an image, never by its name or position: data that were copied, renamed or
listed in another order are split in the same way, and two copies of one image never end up in both splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchtag.config.dataset import Holdout, OnProblem
from batchtag.datasets.base import Dataset, LabelledImage, Problem


def resolve_duplicates(dataset: Dataset, *, on_problem: OnProblem) -> Dataset:
    """Drop images of equal content with different classes; add duplicates as problems, and drop them if asked to."""
    conflicts, duplicates = [], []
    for same in _group_by_content(dataset.images).values():
        first, *others = same
        class_names = sorted({dataset.labels[label_id] for image in same for label_id in image.label_ids})
        if dataset.task == "classify" and len(class_names) > 1:
            conflicts += [(image, _conflict_problem(image, same, class_names)) for image in same]
        else:
            duplicates += [(image, _duplicate_problem(image, first)) for image in others]
    dropped = {id(image) for image, _ in duplicates} if on_problem.duplicate == "drop" else set()
    conflicting = {image.content_hash for image, _ in conflicts}
    images = [image for image in dataset.images if id(image) not in dropped and image.content_hash not in conflicting]
    problems = [problem for _, problem in (*conflicts, *duplicates)]
    return replace(dataset, images=tuple(images), problems=(*dataset.problems, *problems))


def resolve_leaks(train: Dataset, val: Dataset, *, on_problem: OnProblem) -> Dataset:
    """Return `train` without the images whose content is also in `val`; with `leak: keep`, only add the problems."""
    val_images = {image.content_hash: image for image in val.images}
    problems = [
        Problem(kind="leak", uri=image.uri, detail=f"is also in val, as {val_images[image.content_hash].uri}")
        for image in train.images
        if image.content_hash in val_images
    ]
    images = [image for image in train.images if on_problem.leak == "keep" or image.content_hash not in val_images]
    return replace(train, images=tuple(images), problems=(*train.problems, *problems))


def split_holdout(dataset: Dataset, holdout: Holdout) -> tuple[Dataset, Dataset]:
    """Return the remaining images, and exactly round(share * n) held-out images of n; for each class, if classified.

    The order is that of sha256(seed:content), so the choice is always the same, and hardly changes when images are
    added. Copies of one image stay together. A group of copies that is larger than the number still needed is skipped,
    so the number is exact unless copies make that impossible; then it is the next lower one that this order allows.
    Problems stay with the first dataset.
    """
    images_by_class: dict[int, list[LabelledImage]] = {}
    for image in dataset.images:
        label_id = int(image.label_ids[0]) if dataset.task == "classify" else 0
        images_by_class.setdefault(label_id, []).append(image)
    chosen = {content for images in images_by_class.values() for content in _choose_contents(images, holdout)}
    remaining = tuple(image for image in dataset.images if image.content_hash not in chosen)
    held_out = tuple(image for image in dataset.images if image.content_hash in chosen)
    return replace(dataset, images=remaining), replace(dataset, images=held_out, problems=())


def _choose_contents(images: Sequence[LabelledImage], holdout: Holdout) -> list[str]:
    """Return the content hashes to hold out of the images of one class."""
    groups = _group_by_content(images)
    num_needed = round(holdout.share * len(images))
    chosen = []
    for content in sorted(groups, key=lambda content: hashlib.sha256(f"{holdout.seed}:{content}".encode()).digest()):
        if len(groups[content]) <= num_needed:
            chosen.append(content)
            num_needed -= len(groups[content])
    return chosen


def _group_by_content(images: Sequence[LabelledImage]) -> Mapping[str, list[LabelledImage]]:
    groups: dict[str, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(image.content_hash, []).append(image)
    return groups


def _conflict_problem(image: LabelledImage, same: Sequence[LabelledImage], class_names: Sequence[str]) -> Problem:
    other = next((one for one in same if one.label_ids[0] != image.label_ids[0]), image)
    detail = f"is the same image as {other.uri}, but they are in different classes: {', '.join(class_names)}"
    return Problem(kind="conflict", uri=image.uri, detail=detail)


def _duplicate_problem(image: LabelledImage, first: LabelledImage) -> Problem:
    detail = "is listed more than once" if image.uri == first.uri else f"is the same image as {first.uri}"
    return Problem(kind="duplicate", uri=image.uri, detail=detail)

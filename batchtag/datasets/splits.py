"""Which image belongs to which side: equal contents found, a share held out.

All by what is in an image, never by its name or place: a data set that was copied, renamed or listed in another order
is split in the same way, and two copies of one image never lie on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchtag.config.dataset import Holdout, OnProblem
from batchtag.datasets.base import Dataset, LabelledImage, Problem


def without_repeats(dataset: Dataset, *, on_problem: OnProblem) -> Dataset:
    """One split, its conflicts dropped, its duplicates noted, and dropped if the job says so."""
    conflicts, duplicates = [], []
    for alike in _by_content(dataset.images).values():
        first, *others = alike
        classes = sorted({dataset.labels[label] for image in alike for label in image.label_ids})
        if dataset.task == "classify" and len(classes) > 1:
            conflicts += [_conflict(image, alike, classes) for image in alike]
        else:
            duplicates += [(image, _duplicate(image, first)) for image in others]
    dropped = {id(image) for image, _ in duplicates} if on_problem.duplicate == "drop" else set()
    contents = {image.content_hash for image, _ in conflicts}
    images = [one for one in dataset.images if id(one) not in dropped and one.content_hash not in contents]
    found = [problem for _, problem in (*conflicts, *duplicates)]
    return replace(dataset, images=tuple(images), problems=(*dataset.problems, *found))


def without_leaks(train: Dataset, val: Dataset, *, on_problem: OnProblem) -> Dataset:
    """`train` without the images that `val` has too."""
    theirs = {image.content_hash: image for image in val.images}
    leaks = [image for image in train.images if image.content_hash in theirs]
    problems = [
        Problem(kind="leak", uri=image.uri, detail=f"is in val too, as {theirs[image.content_hash].uri}")
        for image in leaks
    ]
    kept = [image for image in train.images if on_problem.leak == "keep" or image.content_hash not in theirs]
    return replace(train, images=tuple(kept), problems=(*train.problems, *problems))


def held_out(dataset: Dataset, holdout: Holdout) -> tuple[Dataset, Dataset]:
    """What stays, and exactly round(share * n) of the n images: of each class, where images have one.

    In the order of sha256(seed:content), so the same images always, and few others when the data grow. Copies of one
    image stay together: a group that is too large for what is still wanted is passed over, so the number is exact
    unless copies make it impossible, and then it is the next lower that can be had in this order. Problems stay
    with the first.
    """
    kinds: dict[int, list[LabelledImage]] = {}
    for image in dataset.images:
        kinds.setdefault(int(image.label_ids[0]) if dataset.task == "classify" else 0, []).append(image)
    chosen = {content for images in kinds.values() for content in _chosen(images, holdout)}
    stay = tuple(image for image in dataset.images if image.content_hash not in chosen)
    out = tuple(image for image in dataset.images if image.content_hash in chosen)
    return replace(dataset, images=stay), replace(dataset, images=out, problems=())


def _chosen(images: Sequence[LabelledImage], holdout: Holdout) -> list[str]:
    """The contents to hold out of images of one class."""
    groups = _by_content(images)
    wanted = round(holdout.share * len(images))
    chosen = []
    for content in sorted(groups, key=lambda one: hashlib.sha256(f"{holdout.seed}:{one}".encode()).digest()):
        if len(groups[content]) <= wanted:
            chosen.append(content)
            wanted -= len(groups[content])
    return chosen


def _by_content(images: Sequence[LabelledImage]) -> Mapping[str, list[LabelledImage]]:
    groups: dict[str, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(image.content_hash, []).append(image)
    return groups


def _conflict(
    image: LabelledImage, alike: Sequence[LabelledImage], classes: Sequence[str]
) -> tuple[LabelledImage, Problem]:
    other = next((one for one in alike if one.label_ids[0] != image.label_ids[0]), image)
    detail = f"is the same image as {other.uri}, and they are in different classes: {', '.join(classes)}"
    return image, Problem(kind="conflict", uri=image.uri, detail=detail)


def _duplicate(image: LabelledImage, first: LabelledImage) -> Problem:
    detail = "is listed more than once" if image.uri == first.uri else f"is the same image as {first.uri}"
    return Problem(kind="duplicate", uri=image.uri, detail=detail)

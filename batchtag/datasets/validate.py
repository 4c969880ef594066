"""Labelled data checked before anything is trained or measured on them: every problem found, then one decision.

All images are opened and all problems collected before the first of them is judged, so that a person corrects a data
set once and not ten times. What is dropped is told as well: a data set that silently shrinks is another data set.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchtag.config.dataset import DataSpec, Holdout, OnProblem
from batchtag.console import printable
from batchtag.datasets import Dataset, Problem, open_dataset
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.boxes import as_displayed
from batchtag.datasets.classes import with_empty_classes, without_empty_classes
from batchtag.datasets.image_check import Opened, Told, open_images
from batchtag.datasets.splits import held_out, without_leaks, without_repeats
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import UsageError

SHOWN_PER_KIND = 10
"""Problems of one kind that a message spells out; of the others it gives the number."""


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """Two splits that can be used: every image opens, every box lies inside its image and has an area.

    `digest` is `data_digest` of both. `num_problems` counts what was met, by kind; the problems themselves are those of
    the splits, and `problem_lines` tells them.
    """

    train: Dataset
    val: Dataset
    digest: str
    num_problems: Mapping[str, int]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*self.train.problems, *self.val.problems)


def read_data(spec: DataSpec, *, rules: DecodeRules, threads: int, told: Told | None = None) -> CheckedData:
    """The data a job names, read and checked. Classes are those of `train`. Raises UsageError, StorageError."""
    train = open_dataset(spec.train, labels=spec.labels)
    val = spec.val if isinstance(spec.val, Holdout) else open_dataset(spec.val, labels=train.labels)
    return check_data(train, val, on_problem=spec.on_problem, rules=rules, threads=threads, told=told)


def check_data(
    train: Dataset,
    val: Dataset | Holdout,
    *,
    on_problem: OnProblem,
    rules: DecodeRules,
    threads: int,
    told: Told | None = None,
) -> CheckedData:
    """Both splits, checked against their images. `val` was opened with the labels of `train`.

    Raises one UsageError with all problems that `on_problem` does not forgive, or if a split has nothing left;
    StorageError if a store cannot be read. Runs on the driver, in `threads` threads.
    """
    splits = [train] if isinstance(val, Holdout) else [train, val]
    if any((one.task, one.labels) != (train.task, train.labels) for one in splits):
        raise UsageError(
            f"train is data to {train.task} with the classes {list(train.labels)}, and val to {splits[1].task} with "
            f"{list(splits[1].labels)}; both must be of one kind and have the same classes"
        )
    opened = open_images(_images_of(splits), rules=rules, threads=threads, told=told)
    splits = [
        without_repeats(as_displayed(one, opened, on_problem=on_problem), on_problem=on_problem) for one in splits
    ]
    if isinstance(val, Holdout):
        train, val = held_out(splits[0], val)
    else:
        train, val = without_leaks(*splits, on_problem=on_problem), splits[1]
    train = with_empty_classes(train)
    # a class may be missing in val: there it cannot be measured, and that is all
    _raise_if_fatal([*train.problems, *(one for one in val.problems if one.kind != "empty_class")], on_problem)
    for name, one in (("train", train), ("val", val)):
        if not one.images:
            raise UsageError(_nothing_left(name, (*train.problems, *val.problems)))
    if on_problem.empty_class == "drop":
        train, val = without_empty_classes(train, val)
    counts = Counter(one.kind for one in (*train.problems, *val.problems))
    return CheckedData(train=train, val=val, digest=data_digest(train, val), num_problems=dict(counts))


def check_dataset(
    dataset: Dataset, *, on_problem: OnProblem, rules: DecodeRules, threads: int, told: Told | None = None
) -> Dataset:
    """One split, to measure on, checked like `val` of `check_data`. Raises like it."""
    opened = open_images(_images_of([dataset]), rules=rules, threads=threads, told=told)
    return check_opened(dataset, opened, on_problem=on_problem)


def check_opened(dataset: Dataset, opened: Mapping[str, Opened], *, on_problem: OnProblem) -> Dataset:
    """The same where it is known already what each image is: a run that tagged them has opened them all."""
    shown = as_displayed(dataset, opened, on_problem=on_problem)
    checked = without_repeats(shown, on_problem=on_problem)
    _raise_if_fatal([one for one in checked.problems if one.kind != "empty_class"], on_problem)
    if not checked.images:
        raise UsageError(_nothing_left("the data", checked.problems))
    return checked


def data_digest(*splits: Dataset) -> str:
    """64 hex digits over all that training depends on: labels, and each image's content, boxes and label ids.

    Neither names nor order count: a data set that was moved is the same.
    """
    digest = hashlib.sha256()
    for split in splits:
        rows = sorted(json.dumps(_facts(image)) for image in split.images)
        digest.update(json.dumps([split.task, split.labels, rows]).encode())
    return digest.hexdigest()


def problem_lines(problems: Sequence[Problem], *, on_problem: OnProblem, per_kind: int = SHOWN_PER_KIND) -> list[str]:
    """What was met, kind by kind: a line with the number and what becomes of them, then the first of them."""
    lines = []
    for kind in OnProblem.model_fields:
        mine = [one for one in problems if one.kind == kind]
        if mine:
            lines.append(f"{kind} ({getattr(on_problem, kind)}): {len(mine):,}")
            lines += [f"  {one}" for one in mine[:per_kind]]
            if len(mine) > per_kind:
                lines.append(f"  and {len(mine) - per_kind:,} more")
    return lines


def _facts(image: LabelledImage) -> list[object]:
    columns = (image.label_ids, image.boxes_xyxy, image.areas, image.is_crowd)
    return [image.content_hash, *(column.tolist() for column in columns)]


def _images_of(splits: Sequence[Dataset]) -> dict[str, Mapping[str, object]]:
    """The storage options for each URI; an image of two splits is opened once."""
    return {image.uri: split.storage_options for split in splits for image in split.images}


def _raise_if_fatal(problems: Sequence[Problem], on_problem: OnProblem) -> None:
    fatal = [one for one in problems if getattr(on_problem, one.kind) == "fail"]
    if not fatal:
        return
    count = "a problem" if len(fatal) == 1 else f"{len(fatal):,} problems"
    ways_on = ", ".join(f"{kind}: drop" for kind in OnProblem.model_fields if any(one.kind == kind for one in fatal))
    lines = [
        f"the labelled data have {count} to decide about:",
        *problem_lines(fatal, on_problem=on_problem),
        f"Correct the data; or go on without what is wrong, with data.on_problem: {{{ways_on}}}",
    ]
    raise UsageError("\n".join(lines))


def _nothing_left(name: str, problems: Sequence[Problem]) -> str:
    counts = Counter(one.kind for one in problems)
    told = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common()) or "no problem was met"
    example = f", such as {problems[0]}" if problems else ""
    return printable(
        f"{name} has no image left ({told}{example}); correct the data, or choose another share to hold out"
    )

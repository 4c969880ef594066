"""Check labelled data before training or evaluation: find every problem first, then decide once, by `OnProblem`.

All images are opened and all problems collected before the first is judged, so that a user corrects a data set once
and not ten times. Dropped images and boxes are reported too: a data set that silently shrinks is another data set.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchtag.config.dataset import DataSpec, Holdout, OnProblem
from batchtag.console import escape_unprintable
from batchtag.datasets import Dataset, Problem, open_dataset
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.boxes import fit_to_images
from batchtag.datasets.empty_classes import add_empty_class_problems, drop_empty_classes
from batchtag.datasets.image_check import ImageFacts, OnProgress, read_image_facts
from batchtag.datasets.splits import resolve_duplicates, resolve_leaks, split_holdout
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import UsageError

SHOWN_PER_KIND = 10
"""Number of problems of one kind that a message lists; of the others it gives the number."""


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """Two usable splits: every image decodes, every box lies inside its image and has an area.

    `digest` is `data_digest` of both. `num_problems` counts the problems by kind; the problems themselves are those of
    the splits, and `problem_lines` formats them.
    """

    train: Dataset
    val: Dataset
    digest: str
    num_problems: Mapping[str, int]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of `train`, then of `val`."""
        return (*self.train.problems, *self.val.problems)


def read_checked_data(
    spec: DataSpec, *, rules: DecodeRules, threads: int, on_progress: OnProgress | None = None
) -> CheckedData:
    """Read and check the data that a job names; the classes are those of `train`. Raises UsageError, StorageError."""
    train = open_dataset(spec.train, labels=spec.labels)
    val = spec.val if isinstance(spec.val, Holdout) else open_dataset(spec.val, labels=train.labels)
    return check_data(train, val, on_problem=spec.on_problem, rules=rules, threads=threads, on_progress=on_progress)


def check_data(
    train: Dataset,
    val: Dataset | Holdout,
    *,
    on_problem: OnProblem,
    rules: DecodeRules,
    threads: int,
    on_progress: OnProgress | None = None,
) -> CheckedData:
    """Check both splits against their images. `val` must have been opened with the labels of `train`.

    Raises one UsageError with all problems that `on_problem` does not allow, or if no image of a split remains;
    StorageError if a store cannot be read. Runs on the driver, in `threads` threads.
    """
    splits = [train] if isinstance(val, Holdout) else [train, val]
    if any((split.task, split.labels) != (train.task, train.labels) for split in splits):
        raise UsageError(
            f"train is data to {train.task} with the classes {list(train.labels)}, and val to {splits[1].task} with "
            f"{list(splits[1].labels)}; both must have the same task and the same classes"
        )
    facts = read_image_facts(_options_by_uri(splits), rules=rules, threads=threads, on_progress=on_progress)
    splits = [_apply_facts(split, facts, on_problem) for split in splits]
    if isinstance(val, Holdout):
        train, val = split_holdout(splits[0], val)
    else:
        train, val = resolve_leaks(*splits, on_problem=on_problem), splits[1]
    train = add_empty_class_problems(train)
    # A class may have no example in val; it is then not measured, and that is not a reason to stop.
    val_problems = [problem for problem in val.problems if problem.kind != "empty_class"]
    _raise_if_fatal([*train.problems, *val_problems], on_problem)
    for name, split in (("train", train), ("val", val)):
        if not split.images:
            raise UsageError(_no_image_remains(name, (*train.problems, *val.problems)))
    if on_problem.empty_class == "drop":
        train, val = drop_empty_classes(train, val)
    counts = Counter(problem.kind for problem in (*train.problems, *val.problems))
    return CheckedData(train=train, val=val, digest=data_digest(train, val), num_problems=dict(counts))


def check_dataset(
    dataset: Dataset,
    *,
    on_problem: OnProblem,
    rules: DecodeRules,
    threads: int,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Check one split for evaluation, as `check_data` checks `val`. Raises the same errors."""
    facts = read_image_facts(_options_by_uri([dataset]), rules=rules, threads=threads, on_progress=on_progress)
    return check_with_facts(dataset, facts, on_problem=on_problem)


def check_with_facts(dataset: Dataset, facts_by_uri: Mapping[str, ImageFacts], *, on_problem: OnProblem) -> Dataset:
    """Check one split with known facts of its images: a run that tagged the images has opened them all."""
    checked = _apply_facts(dataset, facts_by_uri, on_problem)
    _raise_if_fatal([problem for problem in checked.problems if problem.kind != "empty_class"], on_problem)
    if not checked.images:
        raise UsageError(_no_image_remains("the data", checked.problems))
    return checked


def data_digest(*splits: Dataset) -> str:
    """Return 64 hex digits over everything that training depends on: labels, content, boxes and label ids.

    Names and order do not count: a data set that was moved is the same.
    """
    digest = hashlib.sha256()
    for split in splits:
        rows = sorted(json.dumps(_digest_row(image)) for image in split.images)
        digest.update(json.dumps([split.task, split.labels, rows]).encode())
    return digest.hexdigest()


def problem_lines(problems: Sequence[Problem], *, on_problem: OnProblem, per_kind: int = SHOWN_PER_KIND) -> list[str]:
    """Format problems by kind: one line with their number and what `on_problem` does with them, then the first ones."""
    lines = []
    for kind in OnProblem.model_fields:
        of_kind = [problem for problem in problems if problem.kind == kind]
        if of_kind:
            lines.append(f"{kind} ({getattr(on_problem, kind)}): {len(of_kind):,}")
            lines += [f"  {problem}" for problem in of_kind[:per_kind]]
            if len(of_kind) > per_kind:
                lines.append(f"  and {len(of_kind) - per_kind:,} more")
    return lines


def _apply_facts(dataset: Dataset, facts_by_uri: Mapping[str, ImageFacts], on_problem: OnProblem) -> Dataset:
    return resolve_duplicates(fit_to_images(dataset, facts_by_uri, on_problem=on_problem), on_problem=on_problem)


def _digest_row(image: LabelledImage) -> list[object]:
    columns = (image.label_ids, image.boxes_xyxy, image.areas, image.is_crowd)
    return [image.content_hash, *(column.tolist() for column in columns)]


def _options_by_uri(splits: Sequence[Dataset]) -> dict[str, Mapping[str, object]]:
    """Return the storage options for each URI; an image in two splits is opened once."""
    return {image.uri: split.storage_options for split in splits for image in split.images}


def _raise_if_fatal(problems: Sequence[Problem], on_problem: OnProblem) -> None:
    fatal = [problem for problem in problems if getattr(on_problem, problem.kind) == "fail"]
    if not fatal:
        return
    count = "a problem" if len(fatal) == 1 else f"{len(fatal):,} problems"
    fatal_kinds = {problem.kind for problem in fatal}
    drop_all = ", ".join(f"{kind}: drop" for kind in OnProblem.model_fields if kind in fatal_kinds)
    lines = [
        f"the labelled data have {count} to decide about:",
        *problem_lines(fatal, on_problem=on_problem),
        f"Correct the data; or leave out what is wrong, with data.on_problem: {{{drop_all}}}",
    ]
    raise UsageError("\n".join(lines))


def _no_image_remains(name: str, problems: Sequence[Problem]) -> str:
    counts = Counter(problem.kind for problem in problems)
    summary = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common()) or "no problem was found"
    example = f", such as {problems[0]}" if problems else ""
    return escape_unprintable(
        f"no image of {name} remains ({summary}{example}); correct the data, or choose another share to hold out"
    )

"""The held-out share is exact and stable, depends on content alone, and never separates copies of one image."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from batchtag.config.dataset import Holdout
from batchtag.datasets import Dataset
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.splits import split_holdout
from batchtag.tasks import Task


def dataset(contents: Sequence[int], *, classes: int = 1, task: Task = "classify") -> Dataset:
    images = tuple(
        LabelledImage(
            uri=f"{number}.jpg",
            label_ids=np.array([content % classes], np.int64),
            content_hash=hashlib.sha256(str(content).encode()).hexdigest(),
        )
        for number, content in enumerate(contents)
    )
    return Dataset(task=task, labels=tuple(map(str, range(classes))), images=images)


def contents(split: Dataset) -> set[str]:
    return {image.content_hash for image in split.images}


@pytest.mark.parametrize("seed", range(8))
def test_the_exact_share_of_every_class_is_chosen_and_no_image_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    share, classes = rng.uniform(0.05, 0.9), rng.randint(1, 5)
    whole = dataset(rng.sample(range(10_000), rng.randint(20, 200)), classes=classes)
    train, val = split_holdout(whole, Holdout(share=share, seed=seed))
    num_all, num_val = (Counter(int(image.label_ids[0]) for image in split.images) for split in (whole, val))
    assert {label_id: num_val[label_id] for label_id in num_all} == {
        label_id: round(share * n) for label_id, n in num_all.items()
    }
    assert sorted(image.uri for split in (train, val) for image in split.images) == sorted(
        image.uri for image in whole.images
    )


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_order_and_names_do_not_change_the_choice(task: Task) -> None:
    numbers = list(range(60))
    first = split_holdout(dataset(numbers, classes=3, task=task), Holdout())
    random.Random(1).shuffle(numbers)
    again = split_holdout(dataset(numbers, classes=3, task=task), Holdout())
    assert [contents(split) for split in again] == [contents(split) for split in first]
    assert len(first[1].images) == 12


def test_another_seed_chooses_other_images() -> None:
    whole = dataset(range(60))
    assert contents(split_holdout(whole, Holdout())[1]) != contents(split_holdout(whole, Holdout(seed=1))[1])


def test_added_images_hardly_change_the_choice() -> None:
    before = contents(split_holdout(dataset(range(100)), Holdout())[1])
    after = contents(split_holdout(dataset(range(110)), Holdout())[1])
    assert len(before - after) <= 2


@pytest.mark.parametrize("seed", range(8))
def test_copies_of_one_image_are_never_in_both_splits(seed: int) -> None:
    rng = random.Random(seed)
    whole = dataset([rng.randrange(40) for _ in range(80)])
    train, val = split_holdout(whole, Holdout(share=0.3, seed=seed))
    assert contents(train) & contents(val) == set()
    assert len(train.images) + len(val.images) == 80
    assert len(val.images) == 24

"""The hold-out: exact, stable, by content alone, copies on one side."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from batchtag.config.dataset import Holdout
from batchtag.datasets import Dataset, Task
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.splits import held_out


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
def test_exactly_the_share_of_every_class_is_held_out_and_nothing_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    share, classes = chance.uniform(0.05, 0.9), chance.randint(1, 5)
    whole = dataset(chance.sample(range(10_000), chance.randint(20, 200)), classes=classes)
    train, val = held_out(whole, Holdout(share=share, seed=seed))
    counts, out = (Counter(int(image.label_ids[0]) for image in one.images) for one in (whole, val))
    assert {label: out[label] for label in counts} == {label: round(share * n) for label, n in counts.items()}
    assert sorted(image.uri for split in (train, val) for image in split.images) == sorted(
        image.uri for image in whole.images
    )


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_the_order_and_the_names_change_nothing(task: Task) -> None:
    numbers = list(range(60))
    first = held_out(dataset(numbers, classes=3, task=task), Holdout())
    random.Random(1).shuffle(numbers)
    again = held_out(dataset(numbers, classes=3, task=task), Holdout())
    assert [contents(split) for split in again] == [contents(split) for split in first]
    assert len(first[1].images) == 12


def test_another_seed_holds_out_others() -> None:
    whole = dataset(range(60))
    assert contents(held_out(whole, Holdout())[1]) != contents(held_out(whole, Holdout(seed=1))[1])


def test_images_that_come_later_move_few_of_those_that_were_held_out() -> None:
    before = contents(held_out(dataset(range(100)), Holdout())[1])
    after = contents(held_out(dataset(range(110)), Holdout())[1])
    assert len(before - after) <= 2


@pytest.mark.parametrize("seed", range(8))
def test_copies_of_one_image_are_never_on_both_sides(seed: int) -> None:
    chance = random.Random(seed)
    whole = dataset([chance.randrange(40) for _ in range(80)])
    train, val = held_out(whole, Holdout(share=0.3, seed=seed))
    assert contents(train) & contents(val) == set()
    assert len(train.images) + len(val.images) == 80
    assert len(val.images) == 24

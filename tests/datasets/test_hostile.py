"""Damaged annotation files raise only our own errors, or are read as far as they are valid."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from batchtag.datasets import open_dataset
from batchtag.errors import BatchtagError
from tests.datasets.made import LENIENT, Place, checked, make_coco, make_table, make_voc, make_yolo
from tests.datasets.test_contract import THINGS, Make

INSERTIONS = [
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b"NaN",
    b'"',
    b"<",
    b"true",
    b"\xff\xfe",
    b"\0",
    b"<object/>",
    b"\n",
]
FILES = [
    (make_coco, "instances.json"),
    (make_voc, "xml/a.xml"),
    (make_yolo, "labels/a.txt"),
    (make_table, "labels.parquet"),
]


def damage(data: bytes, rng: random.Random) -> bytes:
    """Remove, insert or change bytes, in one to three places."""
    for _ in range(rng.randint(1, 3)):
        offset = rng.randrange(len(data) + 1)
        match rng.randrange(3):
            case 0:
                data = data[:offset] + data[offset + rng.randint(1, 30) :]
            case 1:
                data = data[:offset] + rng.choice(INSERTIONS) + data[offset:]
            case 2:
                data = data[:offset] + rng.randbytes(1) + data[offset + 1 :]
    return data


@pytest.mark.parametrize(("make", "name"), FILES)
def test_a_damaged_annotation_file_raises_only_our_own_errors(make: Make, name: str, tmp_path: Path) -> None:
    spec = make(Place(root=str(tmp_path)), THINGS)
    path = tmp_path / name
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(damage(whole, rng))
        with contextlib.suppress(BatchtagError):
            checked(open_dataset(spec), LENIENT)

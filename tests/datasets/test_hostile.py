"""Annotation files that somebody damaged: told in our words, or read as far as they make sense; never a traceback."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from batchtag.datasets import open_dataset
from batchtag.errors import BatchtagError
from tests.datasets.made import LENIENT, Place, checked, make_coco, make_table, make_voc, make_yolo
from tests.datasets.test_contract import THINGS, Make

PIECES = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b'"', b"<", b"true", b"\xff\xfe", b"\0", b"<object/>", b"\n"]
FILES = [
    (make_coco, "instances.json"),
    (make_voc, "xml/a.xml"),
    (make_yolo, "labels/a.txt"),
    (make_table, "labels.parquet"),
]


def damaged(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(3):
            case 0:
                data = data[:at] + data[at + chance.randint(1, 30) :]
            case 1:
                data = data[:at] + chance.choice(PIECES) + data[at:]
            case 2:
                data = data[:at] + chance.randbytes(1) + data[at + 1 :]
    return data


@pytest.mark.parametrize(("make", "name"), FILES)
def test_a_damaged_file_raises_nothing_but_errors_of_ours(make: Make, name: str, tmp_path: Path) -> None:
    spec = make(Place(root=str(tmp_path)), THINGS)
    path = tmp_path / name
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(damaged(whole, chance))
        with contextlib.suppress(BatchtagError):
            checked(open_dataset(spec), LENIENT)

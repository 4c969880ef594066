"""Small labelled data sets for tests, written through a store, so that they can be anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from batchtag.config.dataset import CocoData, DatasetSpec, Holdout, OnProblem, TableData, VocData, YoloData
from batchtag.datasets import Dataset
from batchtag.datasets.validate import CheckedData, check_data, check_dataset
from batchtag.decoding.decoder import DecodeRules
from batchtag.storage import open_store
from tests.support.images import jpeg

Thing = tuple[str, float, float, float, float]
"""An object: its class, then x_min, y_min, x_max, y_max in pixels."""

LENIENT = OnProblem.model_validate(dict.fromkeys(OnProblem.model_fields, "drop"))
"""Drops everything that is wrong, and fails for nothing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder in any store, and the storage options for it."""

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, name: str, data: bytes | str) -> str:
        uri = f"{self.root}/{name}"
        open_store(uri, self.options).write(uri, data if isinstance(data, bytes) else data.encode())
        return uri


def image(number: int, *, width: int = 64, height: int = 48, **options: Any) -> bytes:
    """A JPEG of noise, different for each number."""
    rng = np.random.default_rng(number)
    return jpeg(Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)), **options)


def voc_xml(things: Sequence[Thing], *, filename: str, size: tuple[int, int] = (64, 48), more: str = "") -> str:
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x_min}</xmin><ymin>{y_min}</ymin>"
        f"<xmax>{x_max}</xmax><ymax>{y_max}</ymax></bndbox></object>"
        for name, x_min, y_min, x_max, y_max in things
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{sides}{objects}{more}</annotation>"


def write_images(place: Place, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        place.write(f"images/{name}.jpg", image(number))


def make_voc(place: Place, things: Mapping[str, Sequence[Thing]]) -> DatasetSpec:
    write_images(place, list(things))
    for name, objects in things.items():
        place.write(f"xml/{name}.xml", voc_xml(objects, filename=f"{name}.jpg"))
    return VocData(annotations=f"{place.root}/xml", images=f"{place.root}/images", storage_options=dict(place.options))


def make_coco(place: Place, things: Mapping[str, Sequence[Thing]]) -> DatasetSpec:
    """Write COCO's JSON. Category ids have gaps and are not in order."""
    write_images(place, list(things))
    names = sorted({name for objects in things.values() for name, *_ in objects})
    categories = [{"id": 90 - 7 * number, "name": name} for number, name in enumerate(names)]
    ids = {category["name"]: category["id"] for category in categories}
    annotations = [
        {"id": 100 * i + j, "image_id": i, "category_id": ids[name], "bbox": [a, b, c - a, d - b], "iscrowd": 0}
        for i, objects in enumerate(things.values())
        for j, (name, a, b, c, d) in enumerate(objects)
    ]
    images = [
        {"id": number, "file_name": f"{name}.jpg", "width": 64, "height": 48} for number, name in enumerate(things)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    uri = place.write("instances.json", json.dumps(content))
    return CocoData(uri=uri, images=f"{place.root}/images", storage_options=dict(place.options))


def make_yolo(place: Place, things: Mapping[str, Sequence[Thing]]) -> DatasetSpec:
    write_images(place, list(things))
    names = sorted({name for objects in things.values() for name, *_ in objects})
    for name, objects in things.items():
        lines = [
            f"{names.index(label)} {(a + c) / 128} {(b + d) / 96} {(c - a) / 64} {(d - b) / 48}"
            for label, a, b, c, d in objects
        ]
        if lines:
            place.write(f"labels/{name}.txt", "\n".join(lines) + "\n")
    return YoloData(images=f"{place.root}/images", names=names, storage_options=dict(place.options))


def make_table(place: Place, things: Mapping[str, Sequence[Thing]]) -> DatasetSpec:
    write_images(place, list(things))
    rows: list[tuple[Any, ...]] = []
    for name, objects in things.items():
        rows += [(f"images/{name}.jpg", *thing) for thing in objects] or [(f"images/{name}.jpg", *[None] * 5)]
    columns = dict(zip(["uri", "label", "x_min", "y_min", "x_max", "y_max"], zip(*rows, strict=True), strict=True))
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), buffer)
    uri = place.write("labels.parquet", buffer.getvalue().to_pybytes())
    return TableData(uri=uri, storage_options=dict(place.options))


def write_classes(folder: Path, counts: Mapping[str, int], *, first: int = 0) -> Path:
    """Write one folder of images for each class. All images differ; they are numbered from `first`."""
    number = first
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for _ in range(count):
            (folder / name / f"{number}.jpg").write_bytes(image(number, width=8, height=8))
            number += 1
    return folder


def checked(dataset: Dataset, on_problem: OnProblem | None = None) -> Dataset:
    return check_dataset(dataset, on_problem=on_problem or OnProblem(), rules=DecodeRules(), threads=2)


def both_checked(train: Dataset, val: Dataset | Holdout, on_problem: OnProblem | None = None) -> CheckedData:
    return check_data(train, val, on_problem=on_problem or OnProblem(), rules=DecodeRules(), threads=2)

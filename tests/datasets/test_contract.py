"""The contract of every reader of labelled boxes: the same data give the same boxes, in any format and any store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from batchtag.config.dataset import DatasetSpec
from batchtag.datasets import detect_dataset, open_dataset
from batchtag.errors import UsageError
from tests.datasets.made import LENIENT, Place, Thing, checked, make_coco, make_table, make_voc, make_yolo
from tests.support.s3server import S3Server

THINGS: dict[str, list[Thing]] = {
    "a": [("RBC", 1, 2, 30, 40), ("WBC", 10, 0, 64, 48)],
    "b b#1": [("Platelets", 5, 5, 6, 7)],
    "c": [],
    "d": [("WBC", 0, 0, 64, 48), ("WBC", 3.5, 4.25, 20, 21)],
}
MAKERS = pytest.mark.parametrize("make", [make_coco, make_voc, make_yolo, make_table])
Make = Callable[[Place, Mapping[str, Sequence[Thing]]], DatasetSpec]


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "local":
            return Place(root=str(tmp_path))
        case "memory":
            return Place(root=f"memory://{tmp_path.name}/data")
    s3: S3Server = request.getfixturevalue("s3")
    return Place(root=f"{request.getfixturevalue('bucket')}/data", options=s3.storage_options)


@MAKERS
def test_every_format_gives_the_same_boxes_and_labels(make: Make, place: Place) -> None:
    dataset = checked(open_dataset(make(place, THINGS)))
    assert (dataset.task, dataset.labels, dataset.problems) == ("detect", ("Platelets", "RBC", "WBC"), ())
    assert [image.uri for image in dataset.images] == [f"{place.root}/images/{name}.jpg" for name in THINGS]
    for image, things in zip(dataset.images, THINGS.values(), strict=True):
        assert [dataset.labels[label_id] for label_id in image.label_ids] == [name for name, *_ in things]
        np.testing.assert_allclose(image.boxes_xyxy, np.array([box for _, *box in things]).reshape(-1, 4), atol=1e-9)
        sizes = [(c - a) * (d - b) for _, a, b, c, d in things]
        np.testing.assert_allclose(image.areas, np.array(sizes), atol=1e-9)
        assert not image.is_crowd.any()
        assert (image.width, image.height, len(image.content_hash)) == (64, 48, 64)


@MAKERS
def test_given_labels_fix_the_ids_and_other_classes_are_unknown(make: Make, tmp_path: Path) -> None:
    dataset = open_dataset(make(Place(root=str(tmp_path)), THINGS), labels=["WBC", "RBC"])
    assert dataset.labels == ("WBC", "RBC")
    assert [image.label_ids.tolist() for image in dataset.images] == [[1, 0], [], [], [0, 0]]
    (problem,) = dataset.problems
    assert problem.kind == "unknown_class"
    assert problem.detail == "an object of class 'Platelets'; the classes are 'WBC', 'RBC'"


@MAKERS
def test_a_limit_keeps_the_first_images(make: Make, tmp_path: Path) -> None:
    spec = make(Place(root=str(tmp_path)), THINGS).model_copy(update={"limit": 2})
    assert [image.uri for image in open_dataset(spec).images] == [
        f"{tmp_path}/images/{n}.jpg" for n in list(THINGS)[:2]
    ]


@MAKERS
def test_open_dataset_opens_no_image(make: Make, tmp_path: Path) -> None:
    spec = make(Place(root=str(tmp_path)), THINGS)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    assert len(open_dataset(spec).images) == 4


@MAKERS
def test_a_missing_image_is_reported_and_only_that_image_is_dropped(make: Make, tmp_path: Path) -> None:
    spec = make(Place(root=str(tmp_path)), THINGS)
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(UsageError, match=r"missing_image \(fail\): 1\n  .*/a\.(jpg|txt): .*does not exist"):
        checked(open_dataset(spec))
    dataset = checked(open_dataset(spec), LENIENT)
    assert [image.uri.rpartition("/")[2] for image in dataset.images] == ["b b#1.jpg", "c.jpg", "d.jpg"]
    assert [problem.kind for problem in dataset.problems] == ["missing_image"]


def test_the_repr_of_a_dataset_shows_no_storage_options(tmp_path: Path) -> None:
    spec = make_coco(Place(root=str(tmp_path)), THINGS).model_copy(update={"storage_options": {"secret": "hidden"}})
    dataset = open_dataset(spec)
    assert dataset.storage_options == {"secret": "hidden"}
    assert "hidden" not in repr(dataset)


def test_the_format_of_data_is_detected_from_names(tmp_path: Path) -> None:
    for make in (make_coco, make_voc, make_table):
        root = tmp_path / make.__name__
        spec = make(Place(root=str(root)), THINGS)
        detected = detect_dataset(spec.uri if hasattr(spec, "uri") else str(root))
        assert open_dataset(detected).images[0].uri == f"{root}/images/a.jpg"
        assert detected.kind == spec.kind


@pytest.mark.parametrize("name", ["images", "pictures"])
def test_images_in_a_folder_beside_the_coco_file_are_found(name: str, tmp_path: Path) -> None:
    """`pictures` is the name that version 0.1 gave the folder."""
    make_coco(Place(root=str(tmp_path)), THINGS)
    (tmp_path / "images").rename(tmp_path / name)
    assert open_dataset(detect_dataset(str(tmp_path))).images[0].uri == f"{tmp_path}/{name}/a.jpg"


def test_a_folder_with_a_data_yaml_is_detected_as_yolo(tmp_path: Path) -> None:
    make_yolo(Place(root=str(tmp_path)), THINGS)
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nnames: {0: Platelets, 1: RBC, 2: WBC}\n")
    dataset = open_dataset(detect_dataset(str(tmp_path)))
    assert dataset.boxes_are_fractions
    assert len(dataset.images) == 4

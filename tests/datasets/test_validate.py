"""Labelled data checked against their images: what is dropped, what is fatal, and the message for each problem."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from batchtag.config.dataset import DataSpec, FolderData, Holdout, OnProblem, VocData
from batchtag.datasets import Dataset, open_dataset
from batchtag.datasets.validate import check_data, data_digest, problem_lines, read_checked_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import UsageError
from tests.datasets.made import (
    LENIENT,
    Place,
    both_checked,
    checked,
    image,
    make_coco,
    make_voc,
    make_yolo,
    voc_xml,
    write_classes,
)
from tests.support.images import exif, oriented_jpeg


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(root=str(tmp_path))


def kinds(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems]


def test_a_box_without_area_is_dropped_and_reported(place: Place) -> None:
    things = [("RBC", 1, 2, 3, 4), ("RBC", 9, 5, 9, 7), ("RBC", 9, 9, 5, 12)]
    dataset = checked(open_dataset(make_voc(place, {"a": things})))
    assert dataset.images[0].boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert [str(problem) for problem in dataset.problems] == [
        f"{place.root}/images/a.jpg: box 2 ('RBC') has no area: x 9 to 9, y 5 to 7, in 64 x 48 pixels",
        f"{place.root}/images/a.jpg: box 3 ('RBC') has no area: x 9 to 5, y 9 to 12, in 64 x 48 pixels",
    ]


def test_boxes_that_reach_beyond_the_image_are_clipped_or_dropped(place: Place) -> None:
    things = [("c", -5.0, 1.0, 8.0, 9.0), ("c", 70.0, 1.0, 80.0, 9.0), ("c", 60.0, 40.0, 65.0, 49.0)]
    spec = make_coco(place, {"a": things})
    dataset = checked(open_dataset(spec))
    assert kinds(dataset) == ["over_edge", "outside"]  # the third reaches over by one pixel, which rounding can cause
    assert dataset.images[0].boxes_xyxy.tolist() == [[0, 1, 8, 9], [60, 40, 64, 48]]
    assert dataset.images[0].areas.tolist() == [64, 32]
    assert len(checked(open_dataset(spec), OnProblem(over_edge="drop")).images[0].boxes_xyxy) == 1
    with pytest.raises(UsageError, match=r"box 1 \('c'\) reaches over the edge of the image: x -5 to 8"):
        checked(open_dataset(spec), OnProblem(over_edge="fail"))


def test_an_image_whose_boxes_are_all_dropped_stays_as_a_background_image(place: Place) -> None:
    dataset = checked(open_dataset(make_voc(place, {"a": [("c", 5, 5, 5, 5)], "b": [("c", 1, 1, 5, 5)]})))
    assert [len(image.boxes_xyxy) for image in dataset.images] == [0, 1]


def test_a_truncated_image_is_dropped_and_reported(place: Place) -> None:
    spec = make_voc(place, {"a": [("c", 1, 1, 5, 5)], "b": []})
    place.write("images/b.jpg", image(1)[:-400])
    dataset = checked(open_dataset(spec))
    assert [image.uri for image in dataset.images] == [f"{place.root}/images/a.jpg"]
    (problem,) = dataset.problems
    assert problem.kind == "undecodable"
    assert str(problem).startswith(f"{place.root}/images/b.jpg: truncated: a JPEG image of ")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_refer_to_the_displayed_image(place: Place, orientation: int) -> None:
    displayed = (64, 48) if orientation < 5 else (48, 64)
    place.write("images/a.jpg", oriented_jpeg(orientation))
    place.write("xml/a.xml", voc_xml([("c", 1, 1, 40, 47)], filename="a.jpg", size=displayed))
    dataset = checked(open_dataset(VocData(annotations=f"{place.root}/xml", images=f"{place.root}/images")))
    assert (dataset.images[0].width, dataset.images[0].height) == displayed
    assert dataset.images[0].boxes_xyxy.tolist() == [[1, 1, 40, 47]]
    assert dataset.problems == ()


def test_yolo_fractions_refer_to_the_displayed_image(place: Place) -> None:
    spec = make_yolo(place, {"a": [("c", 32, 0, 64, 24)]})
    place.write("images/a.jpg", oriented_jpeg(6))
    dataset = checked(open_dataset(spec))
    assert dataset.images[0].boxes_xyxy.tolist() == [[24, 0, 48, 32]]
    assert dataset.images[0].areas.tolist() == [24 * 32]
    assert not dataset.boxes_are_fractions


def test_an_image_labelled_as_stored_but_displayed_rotated_is_reported(place: Place) -> None:
    spec = make_voc(place, {"a": [("c", 1, 1, 60, 40)], "b": [("c", 1, 1, 9, 9)]})
    place.write("images/a.jpg", image(0, exif=exif(6)))
    with pytest.raises(UsageError) as caught:
        checked(open_dataset(spec))
    assert caught.value.message.split("\n")[1:3] == [
        "wrong_size (fail): 1",
        f"  {place.root}/images/a.jpg: is displayed at 48 x 64 pixels, but annotated at 64 x 48. It is stored "
        "rotated (EXIF orientation 6) and was labelled as stored, but boxes are read in the displayed image. Rotate "
        "its pixels as they were labelled and remove the EXIF orientation",
    ]
    assert [image.uri[-5:] for image in checked(open_dataset(spec), LENIENT).images] == ["b.jpg"]
    kept = checked(open_dataset(spec), OnProblem(wrong_size="keep"))
    assert kept.images[0].boxes_xyxy.tolist() == [[1, 1, 48, 40]]


def test_all_problems_are_reported_at_once_each_on_its_line(place: Place) -> None:
    spec = make_voc(place, {"a": [("RBC", 1, 1, 5, 5), ("Dog", 2, 2, 9, 9)], "b": [("RBC", 1, 1, 5, 5)], "c": []})
    place.write("xml/b.xml", voc_xml([("RBC", 1, 1, 5, 5)], filename="a.jpg"))
    (Path(place.root) / "images" / "c.jpg").unlink()
    with pytest.raises(UsageError) as caught:
        checked(open_dataset(spec, labels=["RBC"]))
    root = place.root
    assert caught.value.message.split("\n") == [
        "the labelled data have 3 problems to decide about:",
        "unknown_class (fail): 1",
        f"  {root}/xml/a.xml: an object of class 'Dog'; the classes are 'RBC'",
        "missing_image (fail): 1",
        f"  {root}/images/c.jpg: is labelled but does not exist",
        "wrong_image (fail): 1",
        f"  {root}/xml/b.xml: names another image, 'a.jpg', in <filename>; by its own name it belongs to "
        f"{root}/images/b.jpg",
        "Correct the data; or leave out what is wrong, with data.on_problem: "
        "{unknown_class: drop, missing_image: drop, wrong_image: drop}",
    ]
    lenient = checked(open_dataset(spec, labels=["RBC"]), LENIENT)
    assert [(image.uri[-5:], image.label_ids.tolist()) for image in lenient.images] == [("a.jpg", [0])]
    assert sorted(kinds(lenient)) == ["missing_image", "unknown_class", "wrong_image"]


def test_many_problems_of_one_kind_are_counted_and_the_first_are_listed(place: Place) -> None:
    spec = make_voc(place, {f"{number:02}": [("c", 1, 1, 1, 1)] for number in range(12)})
    dataset = checked(open_dataset(spec))
    lines = problem_lines(dataset.problems, on_problem=OnProblem(), per_kind=3)
    assert (lines[0], len(lines), lines[-1]) == ("zero_area (drop): 12", 5, "  and 9 more")


def test_a_class_without_examples_is_fatal_or_removed_from_the_labels(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", {"Kiwi": 2, "Mango": 2})
    (train / "Lemon").mkdir()
    val = write_classes(tmp_path / "val", {"Kiwi": 1, "Lemon": 1, "Mango": 1}, first=100)
    spec = DataSpec(train=FolderData(uri=str(train)), val=FolderData(uri=str(val)))
    with pytest.raises(UsageError, match=r"empty_class \(fail\): 1\n  .*/train/Lemon: the folder of the class 'Lemon'"):
        read_checked_data(spec, rules=DecodeRules(), threads=2)
    lenient = spec.model_copy(update={"on_problem": OnProblem(empty_class="drop")})
    data = read_checked_data(lenient, rules=DecodeRules(), threads=2)
    assert data.train.labels == data.val.labels == ("Kiwi", "Mango")
    assert [image.label_ids.tolist() for image in data.train.images] == [[0], [0], [1], [1]]
    assert [image.label_ids.tolist() for image in data.val.images] == [[0], [1]]
    assert data.num_problems == {"empty_class": 1}
    keeping = spec.model_copy(update={"on_problem": OnProblem(empty_class="keep")})
    assert read_checked_data(keeping, rules=DecodeRules(), threads=2).train.labels == ("Kiwi", "Lemon", "Mango")


def test_a_detection_class_all_of_whose_boxes_were_dropped_is_reported_as_empty(place: Place) -> None:
    spec = make_coco(place, {"a": [("x", 1, 1, 1, 1)], "b": [("y", 1, 1, 4, 4)], "c": [("y", 2, 2, 4, 4)]})
    with pytest.raises(UsageError, match="train: the class 'x' has no example"):
        both_checked(open_dataset(spec), Holdout(share=0.3))
    data = both_checked(open_dataset(spec), Holdout(share=0.3), OnProblem(empty_class="drop"))
    assert data.train.labels == ("y",)
    assert {label_id for split in (data.train, data.val) for one in split.images for label_id in one.label_ids} == {0}


def test_a_class_that_only_val_has_is_an_unknown_class(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", {"Kiwi": 2})
    val = write_classes(tmp_path / "val", {"Kiwi": 1, "Lemon": 1}, first=100)
    spec = DataSpec(train=FolderData(uri=str(train)), val=FolderData(uri=str(val)))
    with pytest.raises(UsageError, match=r"val/Lemon/101\.jpg: the image of class 'Lemon'; the classes are 'Kiwi'"):
        read_checked_data(spec, rules=DecodeRules(), threads=2)


def test_an_image_in_both_splits_is_removed_from_train(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", {"a": 3, "b": 1})
    val = write_classes(tmp_path / "val", {"a": 1, "b": 1}, first=100)
    shutil.copy(train / "a" / "0.jpg", val / "a" / "renamed.jpg")
    opened = [open_dataset(FolderData(uri=str(folder))) for folder in (train, val)]
    data = both_checked(opened[0], opened[1])
    assert [image.uri[-5:] for image in data.train.images] == ["1.jpg", "2.jpg", "3.jpg"]
    assert len(data.val.images) == 3
    assert [str(problem) for problem in data.problems] == [f"{train}/a/0.jpg: is also in val, as {val}/a/renamed.jpg"]
    with pytest.raises(UsageError, match="leak"):
        both_checked(opened[0], opened[1], OnProblem(leak="fail"))
    assert len(both_checked(opened[0], opened[1], OnProblem(leak="keep")).train.images) == 4


def test_training_on_val_itself_fails_because_no_image_of_train_remains(tmp_path: Path) -> None:
    dataset = open_dataset(FolderData(uri=str(write_classes(tmp_path, {"a": 3}))))
    with pytest.raises(UsageError, match=r"no image of train remains \(leak 3, such as .*/a/0\.jpg: is also in val"):
        both_checked(dataset, dataset)


def test_equal_images_are_reported_and_dropped_only_if_the_job_says_so(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"a": 2})
    shutil.copy(folder / "a" / "0.jpg", folder / "a" / "z.jpg")
    dataset = open_dataset(FolderData(uri=str(folder)))
    kept = checked(dataset)
    assert len(kept.images) == 3
    assert [str(problem) for problem in kept.problems] == [f"{folder}/a/z.jpg: is the same image as {folder}/a/0.jpg"]
    assert len(checked(dataset, OnProblem(duplicate="drop")).images) == 2


def test_an_image_in_two_classes_is_fatal_or_dropped_from_both(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, {"a": 2, "b": 2})
    shutil.copy(folder / "a" / "0.jpg", folder / "b" / "z.jpg")
    dataset = open_dataset(FolderData(uri=str(folder)))
    with pytest.raises(UsageError, match=r"conflict \(fail\): 2\n  .*a/0\.jpg: is the same image as .*b/z\.jpg, but"):
        checked(dataset)
    assert [image.uri[-5:] for image in checked(dataset, LENIENT).images] == ["1.jpg", "2.jpg", "3.jpg"]


def test_progress_is_reported_once_for_every_image(tmp_path: Path) -> None:
    dataset = open_dataset(FolderData(uri=str(write_classes(tmp_path, {"a": 4}))))
    calls: list[tuple[int, int]] = []
    check_data(
        dataset,
        Holdout(share=0.5),
        on_problem=OnProblem(),
        rules=DecodeRules(),
        threads=2,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_digest_depends_on_contents_and_labels_but_not_on_names(tmp_path: Path) -> None:
    things = {"a": [("x", 1, 1, 4, 4)], "b": [("y", 1, 1, 4, 4)]}
    first = checked(open_dataset(make_voc(Place(root=str(tmp_path / "1")), things)))
    moved = checked(open_dataset(make_coco(Place(root=str(tmp_path / "2")), things)))
    assert data_digest(first) == data_digest(moved)
    assert len(data_digest(first)) == 64
    other = checked(open_dataset(make_coco(Place(root=str(tmp_path / "3")), {**things, "b": [("y", 1, 1, 4, 5)]})))
    assert data_digest(other) != data_digest(first)
    assert data_digest(first, moved) != data_digest(first)


def test_splits_with_different_classes_are_refused(tmp_path: Path) -> None:
    train = open_dataset(FolderData(uri=str(write_classes(tmp_path / "t", {"a": 1}))))
    val = open_dataset(FolderData(uri=str(write_classes(tmp_path / "v", {"b": 1}))))
    with pytest.raises(UsageError, match=r"with the classes \['a'\], and val to classify with \['b'\]"):
        both_checked(train, val)


def test_the_blood_cell_data_have_no_problem_and_are_split_exactly(shared_data: Path) -> None:
    folder = shared_data / "detection_train" / "bccd" / "BCCD"
    spec = VocData(annotations=str(folder / "Annotations"), images=str(folder / "JPEGImages"))
    data = both_checked(open_dataset(spec), Holdout(share=0.25))
    assert (len(data.train.images), len(data.val.images), data.num_problems) == (150, 50, {})
    assert data.train.labels == ("Platelets", "RBC", "WBC")
    ids = np.concatenate([image.label_ids for split in (data.train, data.val) for image in split.images])
    assert np.bincount(ids).tolist() == [214, 2281, 207]


def test_the_grocery_data_have_no_problem(shared_data: Path) -> None:
    folder = shared_data / "classification_train" / "grocery"
    specs = [FolderData(uri=str(folder / split)) for split in ("train", "val")]
    data = read_checked_data(DataSpec(train=specs[0], val=specs[1]), rules=DecodeRules(), threads=2)
    assert data.num_problems == {}
    assert data.train.labels == (
        "Avocado", "Banana", "Carrots", "Kiwi", "Lemon", "Mango", "Orange", "Red-Bell-Pepper",
    )  # fmt: skip
    assert np.bincount([int(image.label_ids[0]) for image in data.train.images]).tolist() == [28] * 8

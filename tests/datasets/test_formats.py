"""Features of single formats: COCO's ids and crowds, VOC's names, YOLO's lines, nested folders, tables' columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchtag.config.dataset import CocoData, FolderData, TableData, VocData, YoloData
from batchtag.datasets import detect_dataset, open_dataset
from batchtag.errors import UsageError
from tests.datasets.made import (
    LENIENT,
    Place,
    checked,
    image,
    make_yolo,
    voc_xml,
    write_classes,
    write_images,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(root=str(tmp_path))


def coco(place: Place, *annotations: dict[str, Any], **more: Any) -> CocoData:
    images = [{"id": "x7", "file_name": "sub/a.jpg", "width": 64, "height": 48}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "cell"}], **more}
    return CocoData(uri=place.write("ground_truth.json", json.dumps(content)))


BOX = {"id": 1, "image_id": "x7", "category_id": 5, "bbox": [1, 2, 3, 4]}


def test_coco_keeps_the_area_of_the_segmentation_the_crowd_and_the_image_id(place: Place) -> None:
    crowd = {**BOX, "area": 6.5, "iscrowd": 1}
    (image,) = open_dataset(coco(place, crowd, {**BOX, "ignore": 1})).images
    assert (image.uri, image.image_id, image.width, image.height) == (f"{place.root}/sub/a.jpg", "x7", 64, 48)
    assert image.boxes_xyxy.tolist() == [[1, 2, 4, 6]] * 2
    assert (image.areas.tolist(), image.is_crowd.tolist()) == ([6.5, 12.0], [True, False])


def test_all_invalid_coco_annotations_are_reported_and_the_valid_ones_are_kept(place: Place) -> None:
    dataset = open_dataset(
        coco(
            place,
            {**BOX, "id": 2, "category_id": 6},
            {**BOX, "id": 3, "bbox": [1, 2, None, 4]},
            {**BOX, "id": 4, "image_id": 9},
            {**BOX, "id": 5, "bbox": []},
            BOX,
        )
    )
    assert {problem.kind for problem in dataset.problems} == {"unreadable"}
    assert [problem.detail for problem in dataset.problems] == [
        "annotation 4 is of image 9, which `images` does not list",
        "annotation 2 of 'sub/a.jpg': its category_id is 6, which `categories` does not name",
        "annotation 3 of 'sub/a.jpg': 'None' is not a number",
        "annotation 5 of 'sub/a.jpg': its bbox is []; it must be [x, y, width, height]",
    ]
    assert len(dataset.images[0].boxes_xyxy) == 1


def test_a_coco_file_of_results_is_refused_as_ground_truth(place: Place) -> None:
    uri = place.write("results.json", json.dumps([{"image_id": 1, "score": 0.5}]))
    with pytest.raises(UsageError, match=r"no list of objects at 'images', .*; it has 'a list'"):
        open_dataset(CocoData(uri=uri))


def voc(place: Place, xml: str, **more: Any) -> VocData:
    place.write("images/a.jpg", image(0))
    place.write("xml/a.xml", xml)
    return VocData(annotations=f"{place.root}/xml", images=f"{place.root}/images", **more)


def test_a_voc_file_that_names_another_image_is_reported_and_belongs_to_the_image_of_its_own_name(place: Place) -> None:
    spec = voc(place, voc_xml([("cell", 1, 2, 3, 4)], filename="b.jpg"))
    dataset = open_dataset(spec)
    (problem,) = dataset.problems
    assert str(problem) == (
        f"{place.root}/xml/a.xml: names another image, 'b.jpg', in <filename>; by its own name it belongs to "
        f"{place.root}/images/a.jpg"
    )
    assert dataset.images[0].uri == f"{place.root}/images/a.jpg"


@pytest.mark.parametrize("filename", ["a.jpg", "a.png", "a", "A.JPG", "C:\\photos\\a.jpg", "/photos/a.jpg", ""])
def test_the_filename_in_a_voc_file_may_have_a_path_or_another_extension(place: Place, filename: str) -> None:
    assert open_dataset(voc(place, voc_xml([], filename=filename))).problems == ()


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<annotation><object>", "is not XML (no element found: line 1, column 20); write it again"),
        ('<!DOCTYPE a [<!ENTITY b "b">]><annotation/>', "it has a DOCTYPE, which VOC files do not need"),
        ("<html/>", "its outermost element is <html>, not the <annotation> of Pascal VOC"),
        ("", "is not XML"),
    ],
)
def test_an_xml_file_that_is_not_voc_is_one_problem(place: Place, xml: str, expected: str) -> None:
    place.write("xml/b.xml", voc_xml([], filename="b.jpg"))
    (problem,) = open_dataset(voc(place, xml)).problems
    assert problem.kind == "unreadable"
    assert problem.detail.startswith(expected)


def test_a_voc_object_without_a_box_is_reported_and_the_others_are_kept(place: Place) -> None:
    broken = "<object><name>cell</name><bndbox><xmin>1</xmin></bndbox></object>"
    dataset = open_dataset(voc(place, voc_xml([("cell", 1, 2, 3, 4)], filename="a.jpg", more=broken)))
    assert [problem.detail for problem in dataset.problems] == [
        "object 2: a 'cell' whose <bndbox> has no <ymin>, <xmax>, <ymax>"
    ]
    assert len(dataset.images[0].boxes_xyxy) == 1


def test_difficult_voc_objects_can_be_dropped(place: Place) -> None:
    xml = voc_xml([("cell", 1, 2, 3, 4)], filename="a.jpg").replace("<difficult>0", "<difficult>1")
    assert len(open_dataset(voc(place, xml)).images[0].boxes_xyxy) == 1
    assert len(open_dataset(voc(place, xml, difficult="drop")).images[0].boxes_xyxy) == 0


def test_an_image_set_file_selects_the_voc_images(place: Place) -> None:
    for name in ("b", "c"):
        place.write(f"xml/{name}.xml", voc_xml([], filename=f"{name}.jpg"))
    spec = voc(place, voc_xml([], filename="a.jpg"), names=place.write("train.txt", "c\na -1\n\nd.jpg\n"))
    dataset = open_dataset(spec)
    assert [image.uri for image in dataset.images] == [f"{place.root}/images/{name}.jpg" for name in ("c", "a")]
    assert [(problem.kind, problem.detail) for problem in dataset.problems] == [
        ("not_annotated", f"{place.root}/xml has no d.xml with its annotations")
    ]


def test_a_voc_image_without_annotations_is_reported(place: Place) -> None:
    place.write("images/b.jpg", image(1))
    (problem,) = open_dataset(voc(place, voc_xml([], filename="a.jpg"))).problems
    assert (problem.kind, problem.uri) == ("not_annotated", f"{place.root}/images/b.jpg")


def test_invalid_yolo_lines_are_reported_and_the_others_are_kept(place: Place) -> None:
    spec = make_yolo(place, {"a": [("cell", 0, 0, 32, 24)]})
    place.write("labels/a.txt", "0 .5 .5 1 1\n\n0 .5 .5\nx .5 .5 1 1\n0 nan .5 1 1\n3 .5 .5 1 1\n0 0 0 .5 0 .5 .25\n")
    dataset = open_dataset(spec)
    assert [(problem.kind, problem.detail) for problem in dataset.problems] == [
        (
            "unreadable",
            "line 3: 2 numbers after the class; there must be 4 (centre and size), or 2 for each of 3 or more points",
        ),
        ("unreadable", "line 4: 'x' is not a number"),
        ("unreadable", "line 5: 'nan' is not a number"),
        ("unknown_class", "an object of class 'number 3'; the classes are 'cell'"),
    ]
    assert checked(open_dataset(spec), LENIENT).images[0].boxes_xyxy.tolist() == [[0, 0, 64, 48], [0, 0, 32, 12]]


def test_yolo_text_files_may_be_beside_the_images(place: Place) -> None:
    place.write("a.jpg", image(0))
    place.write("a.txt", "1 .5 .5 1 1")
    place.write("classes.txt", "cell\nplatelet\n")
    dataset = open_dataset(YoloData(images=place.root, names=f"{place.root}/classes.txt"))
    assert (dataset.labels, dataset.problems) == (("cell", "platelet"), ())
    assert dataset.images[0].label_ids.tolist() == [1]


def test_a_yolo_folder_without_any_text_file_is_refused(place: Place) -> None:
    write_images(place, ["a", "b"])
    with pytest.raises(UsageError, match=r"none of its 2 images has a text file of labels in .*/labels/; set data"):
        open_dataset(YoloData(images=f"{place.root}/images", names=["cell"]))


def test_a_class_is_named_by_its_folder_or_by_the_path_of_its_folder(tmp_path: Path) -> None:
    write_classes(tmp_path, {"Fruit/Kiwi": 1, "Vegetables/Pepper/Red": 2, ".ipynb_checkpoints": 1})
    assert open_dataset(FolderData(uri=str(tmp_path))).labels == ("Kiwi", "Red")
    dataset = open_dataset(FolderData(uri=str(tmp_path), class_from="path"))
    assert dataset.labels == ("Fruit/Kiwi", "Vegetables/Pepper/Red")
    assert (dataset.task, [image.label_ids.tolist() for image in dataset.images]) == ("classify", [[0], [1], [1]])


def test_two_folders_with_the_same_class_name_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/Kiwi": 1, "test/Kiwi": 1})
    with pytest.raises(UsageError, match=r"'Kiwi' \(test/Kiwi, train/Kiwi\)\. Name the folder of one split"):
        open_dataset(FolderData(uri=str(tmp_path)))


def test_an_empty_class_folder_and_an_image_without_a_class_are_reported(tmp_path: Path) -> None:
    write_classes(tmp_path, {"Fruit/Kiwi": 1})
    (tmp_path / "Fruit" / "Lemon").mkdir()
    (tmp_path / "x.jpg").write_bytes(image(1))
    dataset = open_dataset(FolderData(uri=str(tmp_path)))
    assert dataset.labels == ("Kiwi", "Lemon")
    assert [(problem.kind, problem.uri) for problem in dataset.problems] == [
        ("empty_class", f"{tmp_path}/Fruit/Lemon"),
        ("not_annotated", f"{tmp_path}/x.jpg"),
    ]
    assert dataset.problems[0].detail == (
        "the folder of the class 'Lemon' contains no image; add some, or remove the folder"
    )


def test_a_limit_keeps_images_of_every_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 5, "b": 5, "c": 1})
    dataset = open_dataset(FolderData(uri=str(tmp_path), limit=5))
    assert np.concatenate([image.label_ids for image in dataset.images]).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "uri,label,extra\na.jpg,007,1\nsub/b.jpg,x y,2\nc.jpg,,3\n"),
        ("t.jsonl", '{"uri": "a.jpg", "label": "007"}\n\n{"uri": "sub/b.jpg", "label": "x y"}\n{"uri": "c.jpg"}\n'),
    ],
)
def test_a_table_without_boxes_has_classified_images(place: Place, name: str, content: str) -> None:
    dataset = open_dataset(detect_dataset(place.write(name, content)))
    assert (dataset.task, dataset.labels) == ("classify", ("007", "x y"))
    assert [image.uri for image in dataset.images] == [f"{place.root}/a.jpg", f"{place.root}/sub/b.jpg"]
    assert [(problem.kind, problem.detail) for problem in dataset.problems] == [
        ("not_annotated", "row 3 has no label for c.jpg")
    ]


def test_missing_columns_are_reported_with_the_most_similar_ones(place: Place) -> None:
    uri = place.write("t.csv", "path,labels,x_min,y_min,x_max\na.jpg,cell,1,2,3\n")
    with pytest.raises(UsageError) as caught:
        open_dataset(TableData(uri=uri))
    lines = caught.value.message.split("\n")
    assert [line.partition(";")[0] for line in lines] == [
        f"{uri}: has no column {name!r}" for name in ("uri", "label", "y_max")
    ]
    assert lines[1].partition("; ")[2].startswith("it has 'labels', ")


def test_a_folder_of_unclear_format_is_refused_with_a_description_of_its_names(place: Place) -> None:
    place.write("images/a.jpg", image(0))
    place.write("labels/a.txt", "0 .5 .5 1 1")
    with pytest.raises(UsageError, match=r"not clear from its 2 names \(1 jpg, 1 txt; such as .*kind coco"):
        detect_dataset(place.root)
    with pytest.raises(UsageError, match="does not exist, or is empty"):
        detect_dataset(f"{place.root}/nowhere")

"""Evaluation of the tags in an output: which images and tags are compared, and the published metrics.

That `evaluate` of a model gives the same metrics as the tags of its job is tested in integration/test_evaluation.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchtag.config.dataset import FolderData
from batchtag.datasets import Dataset, open_dataset
from batchtag.errors import Code, UsageError
from batchtag.evaluation.evaluate import evaluate_out
from batchtag.evaluation.ground_truth import open_ground_truth
from batchtag.evaluation.metrics import DetectionMetrics
from batchtag.evaluation.result import Evaluation
from batchtag.types import Failure, Stage
from tests.datasets.made import Place, Thing, image, make_coco, write_classes
from tests.evaluation.metrics.test_detection import CASES, boxes_xyxy, read_expected_case
from tests.support.s3server import S3Server
from tests.support.samples import info
from tests.support.tagged import Box, TaggedImage, write_tagged_output

HERE, THERE = (4.0, 4.0, 24.0, 24.0), (30.0, 10.0, 60.0, 40.0)
OBJECTS: dict[str, list[Thing]] = {
    "a": [("cup", *HERE), ("jar", *THERE)],
    "b": [("cup", *THERE)],
    "c": [("jar", *HERE)],
}
DETECTOR = info("det", "object", labels=("", "cup", "jar", "spoon"))
OTHER = info("other", "object", labels=("", "cup", "jar"))
BRANDS = info("crops", "class", labels=("cup", "jar"), crops_of="det")
KINDS = info("kinds", "class", labels=("cup", "jar"))


def tag_correctly(name: str) -> TaggedImage:
    """Return an image whose tags are exactly the true objects."""
    boxes: list[Box] = [
        (label, 0.9, (x_min, y_min, x_max, y_max)) for label, x_min, y_min, x_max, y_max in OBJECTS[name]
    ]
    return TaggedImage(boxes={"det": boxes})


def write_output(folder: Path, images: Mapping[str, TaggedImage], *infos: Any) -> str:
    return write_tagged_output(str(folder / "tags"), images, infos or (DETECTOR,))


def make_ground_truth(folder: Path) -> Dataset:
    return open_dataset(make_coco(Place(root=str(folder)), OBJECTS))


def ap50(evaluation: Evaluation) -> float:
    return float(evaluation.score.metrics.summary["AP50"])


@pytest.mark.parametrize("name", CASES)
def test_metrics_of_the_reference_files_from_tables_equal_the_published_ones(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    folder = shared_data / "eval_reference"
    case = read_expected_case(folder, name)
    gt = json.loads((folder / case["gt"]).read_text())
    out, ground_truth = write_reference_output(folder, case, tmp_path)
    evaluation = evaluate_out(out, ground_truth, data=case["gt"])
    metrics = evaluation.score.metrics
    assert isinstance(metrics, DetectionMetrics)
    assert (metrics.num_images, evaluation.score.num_unknown_tags) == (len(gt["images"]), 0)
    assert metrics.summary == pytest.approx(case["pycocotools"], abs=1e-6)
    ids = {str(category.get("name", category["id"])): str(category["id"]) for category in gt["categories"]}
    for each in metrics.per_class:
        expected = case["pycocotools_per_category"].get(ids[each.label], {"AP": -1, "AP50": -1})
        actual = {"AP": each.AP, "AP50": each.AP50}
        assert {key: -1 if math.isnan(value) else value for key, value in actual.items()} == pytest.approx(
            expected, abs=1e-6
        ), each.label
    json.dumps(evaluation.as_dict(), allow_nan=False)


def write_reference_output(folder: Path, case: Mapping[str, Any], target: Path) -> tuple[str, Dataset]:
    """Write the reference detections as the tables of a run; the images of the ground truth do not exist."""
    gt = json.loads((folder / case["gt"]).read_text())
    names = {category["id"]: str(category.get("name", category["id"])) for category in gt["categories"]}
    ground_truth = open_ground_truth(str(folder / case["gt"]))
    uris = {image["id"]: f"s3://photos/{image['file_name']}" for image in gt["images"]}
    boxes: dict[int, list[Box]] = {image: [] for image in uris}
    listed = json.loads((folder / case["dt"]).read_text())
    for detection, box in zip(listed, boxes_xyxy(listed).tolist(), strict=True):
        boxes[detection["image_id"]].append((names[detection["category_id"]], detection["score"], tuple(box)))
    model = info("det", "object", labels=("", *names.values()))
    images = {
        uris[image["id"]]: TaggedImage(
            size=(image.get("width", 0), image.get("height", 0)),
            boxes={"det": sorted(boxes[image["id"]], key=lambda box: -box[1])},
        )
        for image in gt["images"]
    }
    return write_tagged_output(str(target / "tags"), images, [model]), ground_truth


def test_an_image_is_matched_by_its_uri_or_else_by_its_file_name(tmp_path: Path) -> None:
    ground_truth = make_ground_truth(tmp_path)
    same = write_output(tmp_path / "same", {f"{tmp_path}/images/{name}.jpg": tag_correctly(name) for name in OBJECTS})
    bucket = write_output(
        tmp_path / "bucket", {f"s3://photos/2026/{name}.jpg": tag_correctly(name) for name in OBJECTS}
    )
    shards = write_output(
        tmp_path / "shards", {f"s3://photos/0007.tar#{name}.jpg": tag_correctly(name) for name in OBJECTS}
    )
    for out in (same, bucket, shards):
        evaluation = evaluate_out(out, ground_truth, data="ground truth")
        assert (evaluation.score.num_images, ap50(evaluation)) == (3, 1.0)
        assert evaluation.ground_truth.images[0].uri == ground_truth.images[0].uri, (
            "images keep the URIs of the ground truth"
        )


def test_equal_file_names_in_two_folders_are_matched_by_folder(tmp_path: Path) -> None:
    for name in ("cup", "jar"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "1.jpg").write_bytes(image(len(name) + ord(name[0])))
    ground_truth = open_dataset(FolderData(uri=str(tmp_path / "val")))
    images = {f"s3://photos/{name}/1.jpg": TaggedImage(classes={"kinds": [(name, 0.8)]}) for name in ("cup", "jar")}
    evaluation = evaluate_out(write_output(tmp_path, images, KINDS), ground_truth, data="val")
    assert evaluation.score.metrics.summary["accuracy"] == 1.0


def test_names_that_do_not_identify_images_are_an_error(tmp_path: Path) -> None:
    images = {f"s3://photos/{place}/a.jpg": tag_correctly("a") for place in ("x", "y")}
    with pytest.raises(UsageError, match=r"cannot be matched .* because several images are called 'a\.jpg'"):
        evaluate_out(write_output(tmp_path, images), make_ground_truth(tmp_path), data="ground truth")


def test_an_output_of_other_images_is_an_error_that_names_one_image_of_each_side(tmp_path: Path) -> None:
    out = write_output(tmp_path, {"s3://photos/z.jpg": tag_correctly("a")})
    with pytest.raises(UsageError, match=r"none of the 3 labelled images .*images/a\.jpg\) is among .*s3://photos/z"):
        evaluate_out(out, make_ground_truth(tmp_path), data="ground truth")


def test_images_that_were_not_tagged_or_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    failure = Failure(stage=Stage.DECODE, code=Code.TRUNCATED, message="ends after 3 of 9 bytes")
    evaluation = evaluate_out(
        write_output(
            tmp_path, {"s3://photos/a.jpg": tag_correctly("a"), "s3://photos/b.jpg": TaggedImage(failure=failure)}
        ),
        make_ground_truth(tmp_path),
        data="ground truth",
    )
    assert (evaluation.score.num_images, ap50(evaluation)) == (1, 1.0)
    assert evaluation.num_problems == {"missing_image": 1, "undecodable": 1}
    details = {problem.kind: problem.detail for problem in evaluation.ground_truth.problems}
    assert "truncated: ends after 3 of 9 bytes" in details["undecodable"]
    assert details["missing_image"].startswith("is labelled, but is not in")


def test_ground_truth_of_which_no_image_remains_is_an_error(tmp_path: Path) -> None:
    failure = Failure(stage=Stage.DECODE, code=Code.EMPTY, message="has no bytes")
    out = write_output(tmp_path, {f"s3://photos/{name}.jpg": TaggedImage(failure=failure) for name in OBJECTS})
    with pytest.raises(
        UsageError, match=r"no image of the data remains \(undecodable 3, such as .*empty: has no bytes"
    ):
        evaluate_out(out, make_ground_truth(tmp_path), data="ground truth")


def test_one_of_several_models_is_chosen_by_name(tmp_path: Path) -> None:
    wrong: list[Box] = [("jar", 0.99, (0.0, 0.0, 3.0, 3.0))]
    images = {
        f"s3://photos/{name}.jpg": TaggedImage(
            boxes={**(tag_correctly(name).boxes or {}), "other": wrong}, crop_classes=[("jar", 0.9)]
        )
        for name in OBJECTS
    }
    out, ground_truth = write_output(tmp_path, images, DETECTOR, OTHER, BRANDS), make_ground_truth(tmp_path)
    with pytest.raises(UsageError, match=rf"several models .*\({DETECTOR.id}, {OTHER.id}\); choose one with --model"):
        evaluate_out(out, ground_truth, data="ground truth")
    with pytest.raises(UsageError, match=rf"no model 'dett' for the task 'detect'; choose one of {DETECTOR.id}"):
        evaluate_out(out, ground_truth, data="ground truth", model="dett")
    assert ap50(evaluate_out(out, ground_truth, data="ground truth", model="det")) == 1.0
    assert ap50(evaluate_out(out, ground_truth, data="ground truth", model=OTHER.id)) == 0.0


def test_tags_of_crops_never_count_for_the_whole_image(tmp_path: Path) -> None:
    folders = open_dataset(FolderData(uri=str(write_classes(tmp_path / "val", {"cup": 1, "jar": 1}))))
    names = [image.uri for image in folders.images]
    only_crops = {uri: TaggedImage(boxes=tag_correctly("a").boxes, crop_classes=[("jar", 0.9)]) for uri in names}
    with pytest.raises(
        UsageError, match=r"no model of this output gives tags of kind 'class' for whole images \(it has det@.*, crops@"
    ):
        evaluate_out(write_output(tmp_path / "1", only_crops, DETECTOR, BRANDS), folders, data="val")
    both = {
        uri: TaggedImage(
            boxes=tag_correctly("a").boxes, crop_classes=[("jar", 0.99)], classes={"kinds": [(uri.split("/")[-2], 0.6)]}
        )
        for uri in names
    }
    evaluation = evaluate_out(write_output(tmp_path / "2", both, DETECTOR, BRANDS, KINDS), folders, data="val")
    assert evaluation.score.metrics.summary["accuracy"] == 1.0


def test_tags_are_compared_by_name_and_unknown_ones_are_counted(tmp_path: Path) -> None:
    with_spoon: list[Box] = [("spoon", 0.99, HERE), *(tag_correctly("a").boxes or {})["det"]]
    evaluation = evaluate_out(
        write_output(tmp_path, {"s3://photos/a.jpg": TaggedImage(boxes={"det": with_spoon})}),
        make_ground_truth(tmp_path),
        data="ground truth",
    )
    assert ap50(evaluation) == 1.0
    assert (evaluation.score.num_unknown_tags, evaluation.score.unknown_tags) == (1, ("spoon",))


def test_the_note_for_a_classifier_names_what_its_tables_do_not_contain(tmp_path: Path) -> None:
    ground_truth = open_dataset(FolderData(uri=str(write_classes(tmp_path / "val", {"cup": 2, "jar": 2}))))
    images = {image.uri: TaggedImage(classes={"kinds": [("cup", 0.7)]}) for image in ground_truth.images}
    evaluation = evaluate_out(write_output(tmp_path, images, KINDS), ground_truth, data="val")
    assert evaluation.as_dict()["settings"]["max_tags"] == 5
    assert "best 5 tags of an image, down to a score of 0.05" in evaluation.as_dict()["note"]
    assert "AUC" in evaluation.note
    assert evaluation.note in evaluation.render_page().replace("&#39;", "'")


def test_an_output_on_s3_is_compared_with_a_local_ground_truth(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    ground_truth = make_ground_truth(tmp_path)
    out = write_tagged_output(
        f"{bucket}/tags", {f"{bucket}/photos/{name}.jpg": tag_correctly(name) for name in OBJECTS}, [DETECTOR]
    )
    assert ap50(evaluate_out(out, ground_truth, data="ground truth")) == 1.0


def test_images_of_mistakes_are_opened_in_the_output_if_the_labelled_ones_are_missing(tmp_path: Path) -> None:
    ground_truth = make_ground_truth(tmp_path)
    (tmp_path / "bucket").mkdir()
    for name in OBJECTS:
        (tmp_path / "images" / f"{name}.jpg").rename(tmp_path / "bucket" / f"{name}.jpg")
    images = {f"{tmp_path}/bucket/{name}.jpg": TaggedImage(boxes={"det": []}) for name in OBJECTS}
    evaluation = evaluate_out(write_output(tmp_path, images), ground_truth, data="ground truth")
    assert evaluation.render_page().count('href="data:image/jpeg;base64,') == sum(map(len, OBJECTS.values()))


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tables of batchtag"):
        evaluate_out(str(tmp_path), make_ground_truth(tmp_path), data="ground truth")


@pytest.mark.slow
def test_five_thousand_images_are_evaluated_in_seconds(tmp_path: Path) -> None:
    """No time is measured: this would take minutes if there were a query or a read for each image."""
    boxes: Sequence[Box] = [("cup", 0.9 - 0.01 * i, (i, i, i + 20.0, i + 20.0)) for i in range(10)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(5_000)]
    annotations = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [0, 0, 20, 20]} for i in range(5_000)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    out = write_output(tmp_path, {f"s3://photos/{i}.jpg": TaggedImage(boxes={"det": boxes}) for i in range(5_000)})
    evaluation = evaluate_out(out, open_ground_truth(str(tmp_path / "instances.json")), data="ground truth")
    assert (evaluation.score.num_images, ap50(evaluation)) == (5_000, 1.0)

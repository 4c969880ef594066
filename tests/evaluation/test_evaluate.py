"""Tags in tables against a truth: whose image is whose, whose tags count, and the published figures.

That a model that looks now gets the same figures as its run is shown in tests/line/test_measured.py.
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
from batchtag.evaluation.evaluate import evaluate_out, open_ground_truth
from batchtag.evaluation.metrics import DetectionMetrics
from batchtag.evaluation.result import Evaluation
from batchtag.types import Failure, Stage
from tests.datasets.made import Place, Thing, image, make_coco, write_classes
from tests.evaluation.metrics.test_detection import CASES, boxes_xyxy, expected_case
from tests.support.s3server import S3Server
from tests.support.samples import info
from tests.support.tagged import Box, Seen, tagged_out

HERE, THERE = (4.0, 4.0, 24.0, 24.0), (30.0, 10.0, 60.0, 40.0)
THINGS: dict[str, list[Thing]] = {
    "a": [("cup", *HERE), ("jar", *THERE)],
    "b": [("cup", *THERE)],
    "c": [("jar", *HERE)],
}
DETECTOR = info("det", "object", labels=("", "cup", "jar", "spoon"))
OTHER = info("other", "object", labels=("", "cup", "jar"))
BRANDS = info("crops", "class", labels=("cup", "jar"), crops_of="det")
KINDS = info("kinds", "class", labels=("cup", "jar"))


def right(name: str) -> Seen:
    """All that is there, surely, and nothing else."""
    boxes: list[Box] = [(label, 0.9, (x, y, right, bottom)) for label, x, y, right, bottom in THINGS[name]]
    return Seen(boxes={"det": boxes})


def out_of(folder: Path, uris: Mapping[str, Seen], *infos: Any) -> str:
    return tagged_out(str(folder / "tags"), uris, infos or (DETECTOR,))


def ground_truth_of(folder: Path) -> Dataset:
    return open_dataset(make_coco(Place(root=str(folder)), THINGS))


def ap50(found: Evaluation) -> float:
    return float(found.score.metrics.summary["AP50"])


@pytest.mark.parametrize("name", CASES)
def test_every_figure_of_the_reference_files_is_theirs_through_tables_too(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    folder = shared_data / "eval_reference"
    case = expected_case(folder, name)
    gt = json.loads((folder / case["gt"]).read_text())
    out, ground_truth = reference_out(folder, case, tmp_path)
    found = evaluate_out(out, ground_truth, data=case["gt"])
    metrics = found.score.metrics
    assert isinstance(metrics, DetectionMetrics)
    assert (metrics.num_images, found.score.num_unknown_tags) == (len(gt["images"]), 0)
    assert metrics.summary == pytest.approx(case["pycocotools"], abs=1e-6)
    ids = {str(one.get("name", one["id"])): str(one["id"]) for one in gt["categories"]}
    for each in metrics.per_class:
        theirs = case["pycocotools_per_category"].get(ids[each.label], {"AP": -1, "AP50": -1})
        ours = {"AP": each.AP, "AP50": each.AP50}
        assert {key: -1 if math.isnan(value) else value for key, value in ours.items()} == pytest.approx(
            theirs, abs=1e-6
        ), each.label
    json.dumps(found.as_dict(), allow_nan=False)


def reference_out(folder: Path, case: Mapping[str, Any], into: Path) -> tuple[str, Dataset]:
    """The reference detections as a run's tables, and the reference truth; their images are nowhere."""
    gt = json.loads((folder / case["gt"]).read_text())
    names = {one["id"]: str(one.get("name", one["id"])) for one in gt["categories"]}
    ground_truth = open_ground_truth(str(folder / case["gt"]))
    uris = {one["id"]: f"s3://photos/{one['file_name']}" for one in gt["images"]}
    boxes: dict[int, list[Box]] = {image: [] for image in uris}
    listed = json.loads((folder / case["dt"]).read_text())
    for one, box in zip(listed, boxes_xyxy(listed).tolist(), strict=True):
        boxes[one["image_id"]].append((names[one["category_id"]], one["score"], tuple(box)))
    model = info("det", "object", labels=("", *names.values()))
    seen = {
        uris[one["id"]]: Seen(
            size=(one.get("width", 0), one.get("height", 0)),
            boxes={"det": sorted(boxes[one["id"]], key=lambda box: -box[1])},
        )
        for one in gt["images"]
    }
    return tagged_out(str(into / "tags"), seen, [model]), ground_truth


def test_a_image_is_found_by_its_uri_or_else_by_its_file_name(tmp_path: Path) -> None:
    ground_truth = ground_truth_of(tmp_path)
    same = out_of(tmp_path / "same", {f"{tmp_path}/images/{name}.jpg": right(name) for name in THINGS})
    bucket = out_of(tmp_path / "bucket", {f"s3://photos/2026/{name}.jpg": right(name) for name in THINGS})
    shards = out_of(tmp_path / "shards", {f"s3://photos/0007.tar#{name}.jpg": right(name) for name in THINGS})
    for out in (same, bucket, shards):
        found = evaluate_out(out, ground_truth, data="truth")
        assert (found.score.num_images, ap50(found)) == (3, 1.0)
        assert found.ground_truth.images[0].uri == ground_truth.images[0].uri, (
            "images are known by the truth's own URIs"
        )


def test_one_file_name_in_two_folders_is_told_apart_by_the_folders(tmp_path: Path) -> None:
    for name in ("cup", "jar"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "1.jpg").write_bytes(image(len(name) + ord(name[0])))
    ground_truth = open_dataset(FolderData(uri=str(tmp_path / "val")))
    seen = {f"s3://photos/{name}/1.jpg": Seen(classes={"kinds": [(name, 0.8)]}) for name in ("cup", "jar")}
    found = evaluate_out(out_of(tmp_path, seen, KINDS), ground_truth, data="val")
    assert found.score.metrics.summary["accuracy"] == 1.0


def test_names_that_do_not_tell_which_is_which_are_an_error_that_says_so(tmp_path: Path) -> None:
    seen = {f"s3://photos/{place}/a.jpg": right("a") for place in ("x", "y")}
    with pytest.raises(UsageError, match=r"names alone do not tell .* several images are called 'a\.jpg'"):
        evaluate_out(out_of(tmp_path, seen), ground_truth_of(tmp_path), data="truth")


def test_tables_of_other_images_are_an_error_that_names_one_of_each_side(tmp_path: Path) -> None:
    out = out_of(tmp_path, {"s3://photos/z.jpg": right("a")})
    with pytest.raises(UsageError, match=r"none of the 3 labelled images .*images/a\.jpg; it holds s3://photos/z"):
        evaluate_out(out, ground_truth_of(tmp_path), data="truth")


def test_images_that_were_not_tagged_or_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    failure = Failure(stage=Stage.DECODE, code=Code.TRUNCATED, message="ends after 3 of 9 bytes")
    found = evaluate_out(
        out_of(tmp_path, {"s3://photos/a.jpg": right("a"), "s3://photos/b.jpg": Seen(failure=failure)}),
        ground_truth_of(tmp_path),
        data="truth",
    )
    assert (found.score.num_images, ap50(found)) == (1, 1.0)
    assert found.num_problems == {"missing_image": 1, "undecodable": 1}
    told = {str(one.kind): one.detail for one in found.ground_truth.problems}
    assert "truncated: ends after 3 of 9 bytes" in told["undecodable"]
    assert told["missing_image"].startswith("is labelled, and is not in")


def test_a_ground_truth_with_no_image_left_is_an_error(tmp_path: Path) -> None:
    failure = Failure(stage=Stage.DECODE, code=Code.EMPTY, message="has no bytes")
    out = out_of(tmp_path, {f"s3://photos/{name}.jpg": Seen(failure=failure) for name in THINGS})
    with pytest.raises(UsageError, match=r"no image left \(undecodable 3, such as .*empty: has no bytes"):
        evaluate_out(out, ground_truth_of(tmp_path), data="truth")


def test_of_several_models_one_is_chosen_and_the_others_do_not_count(tmp_path: Path) -> None:
    wrong: list[Box] = [("jar", 0.99, (0.0, 0.0, 3.0, 3.0))]
    seen = {
        f"s3://photos/{name}.jpg": Seen(boxes={**(right(name).boxes or {}), "other": wrong}, of_crops=[("jar", 0.9)])
        for name in THINGS
    }
    out, ground_truth = out_of(tmp_path, seen, DETECTOR, OTHER, BRANDS), ground_truth_of(tmp_path)
    with pytest.raises(UsageError, match=rf"it has {DETECTOR.id}, {OTHER.id}; choose one with --model"):
        evaluate_out(out, ground_truth, data="truth")
    with pytest.raises(UsageError, match=rf"no model 'dett' to detect with; it has {DETECTOR.id}"):
        evaluate_out(out, ground_truth, data="truth", model="dett")
    assert ap50(evaluate_out(out, ground_truth, data="truth", model="det")) == 1.0
    assert ap50(evaluate_out(out, ground_truth, data="truth", model=OTHER.id)) == 0.0


def test_what_was_said_of_crops_never_counts_for_the_image(tmp_path: Path) -> None:
    folders = open_dataset(FolderData(uri=str(write_classes(tmp_path / "val", {"cup": 1, "jar": 1}))))
    names = [image.uri for image in folders.images]
    only_crops = {uri: Seen(boxes=right("a").boxes, of_crops=[("jar", 0.9)]) for uri in names}
    with pytest.raises(UsageError, match=r"none that gives class tags of whole images, only det@.*, crops@"):
        evaluate_out(out_of(tmp_path / "1", only_crops, DETECTOR, BRANDS), folders, data="val")
    both = {
        uri: Seen(boxes=right("a").boxes, of_crops=[("jar", 0.99)], classes={"kinds": [(uri.split("/")[-2], 0.6)]})
        for uri in names
    }
    found = evaluate_out(out_of(tmp_path / "2", both, DETECTOR, BRANDS, KINDS), folders, data="val")
    assert found.score.metrics.summary["accuracy"] == 1.0


def test_tags_count_by_name_and_unknown_ones_are_told(tmp_path: Path) -> None:
    strange: list[Box] = [("spoon", 0.99, HERE), *(right("a").boxes or {})["det"]]
    found = evaluate_out(
        out_of(tmp_path, {"s3://photos/a.jpg": Seen(boxes={"det": strange})}), ground_truth_of(tmp_path), data="truth"
    )
    assert ap50(found) == 1.0
    assert (found.score.num_unknown_tags, found.score.unknown_tags) == (1, ("spoon",))


def test_tables_of_a_classifier_say_that_they_do_not_hold_every_score(tmp_path: Path) -> None:
    ground_truth = open_dataset(FolderData(uri=str(write_classes(tmp_path / "val", {"cup": 2, "jar": 2}))))
    seen = {image.uri: Seen(classes={"kinds": [("cup", 0.7)]}) for image in ground_truth.images}
    found = evaluate_out(out_of(tmp_path, seen, KINDS), ground_truth, data="val")
    assert found.as_dict()["settings"]["max_tags"] == 5
    assert "best 5 tags of an image, down to a score of 0.05" in found.as_dict()["note"]
    assert "AUC" in found.note
    assert found.note in found.page().replace("&#39;", "'")


def test_an_out_on_s3_is_judged_by_a_local_ground_truth(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    ground_truth = ground_truth_of(tmp_path)
    out = tagged_out(f"{bucket}/tags", {f"{bucket}/photos/{name}.jpg": right(name) for name in THINGS}, [DETECTOR])
    assert ap50(evaluate_out(out, ground_truth, data="truth")) == 1.0


def test_images_of_the_worst_mistakes_come_from_where_they_still_are(tmp_path: Path) -> None:
    ground_truth = ground_truth_of(tmp_path)
    (tmp_path / "bucket").mkdir()
    for name in THINGS:
        (tmp_path / "images" / f"{name}.jpg").rename(tmp_path / "bucket" / f"{name}.jpg")
    seen = {f"{tmp_path}/bucket/{name}.jpg": Seen(boxes={"det": []}) for name in THINGS}
    found = evaluate_out(out_of(tmp_path, seen), ground_truth, data="truth")
    assert found.page().count('href="data:image/jpeg;base64,') == sum(map(len, THINGS.values()))


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tables of batchtag"):
        evaluate_out(str(tmp_path), ground_truth_of(tmp_path), data="truth")


def test_five_thousand_images_are_judged_in_seconds(tmp_path: Path) -> None:
    """Not timed: a truth of this size would take minutes if anything were done image by image in SQL or on disk."""
    boxes: Sequence[Box] = [("cup", 0.9 - 0.01 * i, (i, i, i + 20.0, i + 20.0)) for i in range(10)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(5_000)]
    annotations = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [0, 0, 20, 20]} for i in range(5_000)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    out = out_of(tmp_path, {f"s3://photos/{i}.jpg": Seen(boxes={"det": boxes}) for i in range(5_000)})
    found = evaluate_out(out, open_ground_truth(str(tmp_path / "instances.json")), data="truth")
    assert (found.score.num_images, ap50(found)) == (5_000, 1.0)

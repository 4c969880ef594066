"""The files of an evaluation, and the command `batchtag evaluate` as a user types it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchtag import models
from batchtag.analysis.query import query
from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.datasets import open_dataset
from batchtag.errors import UsageError
from batchtag.evaluation.evaluate import evaluate_out, prepare_model
from batchtag.evaluation.ground_truth import check_ground_truth, open_ground_truth
from batchtag.evaluation.result import class_rows, headline_text, write_evaluation
from batchtag.models.checkpoint.checkpoint_writer import record_results
from batchtag.output.job_identity import store_thresholds
from batchtag.output.layout import Layout
from batchtag.storage import open_store
from batchtag.training.state import copy_state_to_cpu
from batchtag.training.trainable import make_trainable
from tests.datasets.made import Place, make_coco, write_classes
from tests.evaluation.test_evaluate import DETECTOR, KINDS, OBJECTS, OTHER, tag_correctly
from tests.support.samples import info
from tests.support.started import RunCommand
from tests.support.tagged import TaggedImage, write_tagged_output


@pytest.fixture
def batchtag(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunCommand:
    """Run a command line in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Ground truth of three images in COCO's format at ./val, and their tags at ./tags."""
    make_coco(Place(root=str(tmp_path / "val")), OBJECTS)
    write_tagged_output(
        str(tmp_path / "tags"), {f"s3://photos/{name}.jpg": tag_correctly(name) for name in OBJECTS}, [DETECTOR]
    )
    return tmp_path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder for each class at ./val, and an untrained classifier at ./kinds."""
    write_classes(tmp_path / "val", {"cup": 3, "jar": 3})
    made = make_trainable(
        "squeezenet1_1",
        task="classify",
        labels=("cup", "jar"),
        preprocessing={"crop_size": 32},
    )
    made.save(str(tmp_path / "kinds"), copy_state_to_cpu(made.network), metrics={}, thresholds={"jar": 0.9}, extra={})
    return tmp_path


def all_floats(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [
            number for item in (value.values() if isinstance(value, dict) else value) for number in all_floats(item)
        ]
    return [value] if isinstance(value, float) else []


def test_the_json_has_every_threshold_and_no_nan_and_the_page_makes_no_request(
    boxes: Path, batchtag: RunCommand
) -> None:
    objects = {**OBJECTS, "d": [("spoon", 1.0, 1.0, 9.0, 9.0)]}
    make_coco(Place(root=str(boxes / "val")), objects)
    code, answer, story = batchtag("evaluate", "tags", "--truth", "val/instances.json", "--report", "report")
    assert code == 0
    text = (boxes / "report" / "evaluation.json").read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert all(map(math.isfinite, all_floats(content)))
    assert content["thresholds"].keys() == {"cup", "jar"}
    spoon = next(label for label in content["metrics"]["per_class"] if label["label"] == "spoon")
    assert (spoon["AP"], spoon["threshold"]["score"]) == (None, None)
    page = (boxes / "report" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "det on 3 images: AP 1.000, AP50 1.000" in answer
    assert "missing_image (drop): 1" in story
    assert "written: " in story


def test_json_on_stdout_equals_the_file(boxes: Path, batchtag: RunCommand) -> None:
    code, answer, _ = batchtag("evaluate", "tags", "--data", "val/instances.json", "--json", "-q")
    assert code == 0
    assert json.loads(answer) == json.loads((boxes / "evaluation" / "evaluation.json").read_text())


def test_an_output_is_compared_with_the_validation_images_of_a_training_job(
    classes: Path, batchtag: RunCommand
) -> None:
    job = {
        "version": 1,
        "data": {"train": {"kind": "folders", "uri": "val"}, "val": {"kind": "holdout", "share": 0.34}},
        "network": {"architecture": "squeezenet1_1", "start": "none"},
        "output": {"uri": "out"},
    }
    (classes / "job.yaml").write_text(yaml.safe_dump(job))
    images = {
        str(path): TaggedImage(size=(8, 8), content=path.read_bytes(), classes={"kinds": [("cup", 0.9)]})
        for path in (classes / "val").rglob("*.jpg")
    }
    write_tagged_output(str(classes / "tags"), images, [KINDS])
    code, answer, story = batchtag("evaluate", "tags", "--data", "job.yaml")
    assert (code, "kinds on 2 images: accuracy 0.500" in answer) == (0, True), story
    code, answer, story = batchtag("evaluate", "kinds", "--data", "job.yaml")
    assert (code, "kinds on 2 images: accuracy " in answer) == (0, True), story


def test_thresholds_are_stored_in_the_checkpoint_and_its_digest_stays(classes: Path, batchtag: RunCommand) -> None:
    before = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    code, _, story = batchtag("evaluate", "kinds", "--data", "val")
    unchanged = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    assert (code, unchanged) == (0, before), "nothing is stored without --store-thresholds"
    code, _, story = batchtag("evaluate", "kinds", "--data", "val", "--store-thresholds")
    assert code == 0
    assert "thresholds stored in kinds" in story
    after = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    content = json.loads((classes / "evaluation" / "evaluation.json").read_text())
    assert dict(after.thresholds) == content["thresholds"] != dict(before.thresholds)
    assert after.digest == before.digest == content["model"]["digest"]


def test_confident_tags_of_a_run_follow_the_thresholds_of_its_checkpoint(classes: Path) -> None:
    record_results(str(classes / "kinds"), thresholds={"cup": 0.7})
    model = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    images = {
        f"s3://photos/{i}.jpg": TaggedImage(classes={"kinds": [("cup", 0.65 + i / 10), ("jar", 0.55)]}) for i in (0, 1)
    }
    out = write_tagged_output(str(classes / "tags"), images, [model])
    store_thresholds([model], store=open_store(out), layout=Layout(out))  # as a run does when it starts
    rows = query(out, "select uri, tag from confident order by 1, 2").to_pylist()
    assert [(row["uri"][-5:], row["tag"]) for row in rows] == [("0.jpg", "jar"), ("1.jpg", "cup"), ("1.jpg", "jar")]


def test_every_mistake_on_the_command_line_gives_one_line_with_a_remedy(boxes: Path, batchtag: RunCommand) -> None:
    (boxes / "empty").mkdir()
    (boxes / "unfinished").mkdir()
    (boxes / "unfinished" / "training.json").write_text("{}")
    messages = {
        ("evaluate", "./nothing", "--data", "val/instances.json"): r"does not exist; name a checkpoint's folder",
        (
            "evaluate",
            "empty",
            "--data",
            "val/instances.json",
        ): r"neither a checkpoint \(it has no model\.json\) nor the output of a run",
        (
            "evaluate",
            "unfinished",
            "--data",
            "val/instances.json",
        ): r"training is unfinished; run the same `batchtag train`",
        ("evaluate", "resnet5O", "--data", "val/instances.json"): r"is called 'resnet5O'; did you mean 'resnet50'",
        ("evaluate", "tags", "--data", "tags"): r"tags: is the output of a run and not ground truth",
        ("evaluate", "tags", "--data", "nothing"): r"nothing: does not exist",
        ("evaluate", "tags", "--data", "nothing.json"): r"nothing\.json: does not exist",
        (
            "evaluate",
            "tags",
            "--data",
            "val/instances.json",
            "--model",
            "dett",
        ): r"no model 'dett'.* choose one of det@",
        ("evaluate", "tags", "--data", "val/instances.json", "--score-floor", "0.3"): r"leave the option out",
        ("evaluate", "tags", "--data", "val/instances.json", "--store-thresholds"): r"name the folder of a checkpoint",
        ("evaluate", "resnet50", "--data", "val/instances.json", "--device", "tpu"): r"must be auto, cpu or cuda",
    }
    for words, expected in messages.items():
        code, answer, story = batchtag(*words)
        assert (code, answer) == (2, ""), words
        assert re.fullmatch(rf"batchtag: .*{expected}.*\n", story), (words, story)
    assert not (boxes / "evaluation").exists()


def test_options_that_would_be_ignored_are_all_named_at_once(classes: Path, batchtag: RunCommand) -> None:
    code, _, story = batchtag("evaluate", "resnet50", "--data", "val", "--model", "x", "--store-thresholds")
    assert (code, len(story.splitlines())) == (2, 2)
    assert "--model chooses one of the models of an output, but resnet50 is a single model" in story
    assert "--store-thresholds writes to a checkpoint, but resnet50 is not one" in story


def test_a_model_of_another_task_is_an_error_before_any_image_is_opened(boxes: Path, classes: Path) -> None:
    spec = TorchvisionSpec(builder="squeezenet1_1", weights="none")
    with pytest.raises(
        UsageError, match="squeezenet1_1 gives tags of kind 'class', but the labelled images are for the task 'detect'"
    ):
        prepare_model(spec, task="detect")


def test_a_published_model_is_compared_with_labels_of_the_same_names(tmp_path: Path) -> None:
    ground_truth = open_dataset(make_coco(Place(root=str(tmp_path)), {"a": [("person", 1.0, 1.0, 30.0, 40.0)]}))
    published = info("published", "object", labels=("", "person", "bicycle"))
    boxes = [("person", 0.9, (1.0, 1.0, 30.0, 40.0)), ("bicycle", 0.8, (1.0, 1.0, 30.0, 40.0))]
    out = write_tagged_output(
        str(tmp_path / "tags"), {"s3://photos/a.jpg": TaggedImage(boxes={"published": boxes})}, [published]
    )
    evaluation = evaluate_out(out, ground_truth, data="ground truth")
    assert headline_text(evaluation.score).startswith("AP 1.000")
    assert evaluation.score.unknown_tags == ("bicycle",)


def test_a_class_that_cannot_be_measured_has_a_dash_in_the_table(boxes: Path) -> None:
    write_tagged_output(
        str(boxes / "none"), {f"s3://photos/{name}.jpg": TaggedImage(boxes={}) for name in OBJECTS}, [OTHER]
    )
    _, rows = class_rows(evaluate_out(str(boxes / "none"), open_ground_truth(str(boxes / "val")), data="val").score)
    assert rows[0] == ["cup", "2", "0", "0.000", "0.000", "-", "-", "-", "-"]


def test_a_report_is_written_to_s3(boxes: Path, bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluate_out(str(boxes / "tags"), open_ground_truth(str(boxes / "val")), data="val")
    uris = write_evaluation(evaluation, f"{bucket}/report", storage_options=s3.storage_options)
    assert uris == (f"{bucket}/report/evaluation.json", f"{bucket}/report/report.html")
    assert json.loads(s3.store.read(uris[0]).data) == evaluation.as_dict()


def test_images_that_cannot_be_opened_are_left_out_and_reported(classes: Path) -> None:
    (classes / "val" / "cup" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    checked = check_ground_truth(open_ground_truth(str(classes / "val")), on_progress=lambda _: None)
    assert (len(checked.images), [problem.kind for problem in checked.problems]) == (6, ["undecodable"])


def test_drawn_scenes_are_readable_by_evaluate_and_equal_for_equal_seeds(tmp_path: Path, batchtag: RunCommand) -> None:
    for folder in ("one", "two"):
        code, answer, story = batchtag("scenes", folder, "--images", "2", "--seed", "7", "--crops")
        assert (code, answer) == (0, "")
        assert "2 images in one/images, the ground truth in one/instances.json" in story or folder == "two"
    one, two = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("one", "two"))
    assert [p.relative_to(tmp_path / "one") for p in one] == [p.relative_to(tmp_path / "two") for p in two]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    shelves = check_ground_truth(
        open_ground_truth(str(tmp_path / "one" / "instances.json")), on_progress=lambda _: None
    )
    crops = check_ground_truth(open_ground_truth(str(tmp_path / "one" / "crops")), on_progress=lambda _: None)
    assert (shelves.task, crops.task) == ("detect", "classify")
    assert (len(shelves.images), shelves.problems) == (2, ())
    assert len(crops.images) == sum(len(image.label_ids) for image in shelves.images)

"""What an evaluation leaves behind, and what `batchtag evaluate` says, as a person types it."""

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
from batchtag.evaluation.evaluate import checked_ground_truth, evaluate_out, open_ground_truth, prepared
from batchtag.evaluation.result import class_rows, headline_text, write_evaluation
from batchtag.models.checkpoint.model import note_results
from batchtag.output.job_identity import store_thresholds
from batchtag.output.layout import Layout
from batchtag.storage import open_store
from batchtag.training.trainable import float_tensors, make_trainable
from tests.datasets.made import Place, make_coco, write_classes
from tests.evaluation.test_evaluate import DETECTOR, KINDS, OTHER, THINGS, right
from tests.support.samples import info
from tests.support.started import Typed
from tests.support.tagged import Seen, tagged_out


@pytest.fixture
def batchtag(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Typed:
    """Run a command line in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return typed


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """A COCO truth of three images at ./val, and their tags at ./tags."""
    make_coco(Place(root=str(tmp_path / "val")), THINGS)
    tagged_out(str(tmp_path / "tags"), {f"s3://photos/{name}.jpg": right(name) for name in THINGS}, [DETECTOR])
    return tmp_path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder a class at ./val, and an untrained classifier at ./kinds."""
    write_classes(tmp_path / "val", {"cup": 3, "jar": 3})
    made = make_trainable(
        "squeezenet1_1",
        arguments={},
        labels=("cup", "jar"),
        task="classify",
        preprocessing={"crop_size": 32},
        start=None,
        seed=0,
    )
    made.save(str(tmp_path / "kinds"), float_tensors(made.network), metrics={}, thresholds={"jar": 0.9}, extra={})
    return tmp_path


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [number for one in (value.values() if isinstance(value, dict) else value) for number in numbers(one)]
    return [value] if isinstance(value, float) else []


def test_the_json_has_no_nan_and_every_threshold_and_the_page_needs_nothing(boxes: Path, batchtag: Typed) -> None:
    things = {**THINGS, "d": [("spoon", 1.0, 1.0, 9.0, 9.0)]}
    make_coco(Place(root=str(boxes / "val")), things)
    code, answer, story = batchtag("evaluate", "tags", "--truth", "val/instances.json", "--report", "report")
    assert code == 0
    text = (boxes / "report" / "evaluation.json").read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert all(map(math.isfinite, numbers(content)))
    assert content["thresholds"].keys() == {"cup", "jar"}
    spoon = next(one for one in content["metrics"]["per_class"] if one["label"] == "spoon")
    assert (spoon["AP"], spoon["threshold"]["score"]) == (None, None)
    page = (boxes / "report" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "det on 3 images: AP 1.000, AP50 1.000" in answer
    assert "missing_image (drop): 1" in story
    assert "written: " in story


def test_json_on_stdout_is_the_file(boxes: Path, batchtag: Typed) -> None:
    code, answer, _ = batchtag("evaluate", "tags", "--data", "val/instances.json", "--json", "-q")
    assert code == 0
    assert json.loads(answer) == json.loads((boxes / "evaluation" / "evaluation.json").read_text())


def test_tables_of_a_run_are_judged_by_what_a_training_job_holds_out(classes: Path, batchtag: Typed) -> None:
    job = {
        "version": 1,
        "data": {"train": {"kind": "folders", "uri": "val"}, "val": {"kind": "holdout", "share": 0.34}},
        "network": {"architecture": "squeezenet1_1", "start": "none"},
        "output": {"uri": "out"},
    }
    (classes / "job.yaml").write_text(yaml.safe_dump(job))
    seen = {
        str(path): Seen(size=(8, 8), content=path.read_bytes(), classes={"kinds": [("cup", 0.9)]})
        for path in (classes / "val").rglob("*.jpg")
    }
    tagged_out(str(classes / "tags"), seen, [KINDS])
    code, answer, story = batchtag("evaluate", "tags", "--data", "job.yaml")
    assert (code, "kinds on 2 images: accuracy 0.500" in answer) == (0, True), story
    code, answer, story = batchtag("evaluate", "kinds", "--data", "job.yaml")
    assert (code, "kinds on 2 images: accuracy " in answer) == (0, True), story


def test_thresholds_are_stored_in_the_checkpoint_and_its_digest_stays(classes: Path, batchtag: Typed) -> None:
    before = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    code, _, story = batchtag("evaluate", "kinds", "--data", "val")
    unchanged = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    assert (code, unchanged) == (0, before), "nothing is stored unasked"
    code, _, story = batchtag("evaluate", "kinds", "--data", "val", "--store-thresholds")
    assert code == 0
    assert "thresholds stored in kinds" in story
    after = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    content = json.loads((classes / "evaluation" / "evaluation.json").read_text())
    assert dict(after.thresholds) == content["thresholds"] != dict(before.thresholds)
    assert after.digest == before.digest == content["model"]["digest"]


def test_what_readers_believe_of_a_run_are_the_thresholds_of_its_checkpoint(classes: Path) -> None:
    note_results(str(classes / "kinds"), thresholds={"cup": 0.7})
    model = models.prepare(CheckpointSpec(uri=str(classes / "kinds")))
    seen = {f"s3://photos/{i}.jpg": Seen(classes={"kinds": [("cup", 0.65 + i / 10), ("jar", 0.55)]}) for i in (0, 1)}
    out = tagged_out(str(classes / "tags"), seen, [model])
    store_thresholds([model], store=open_store(out), layout=Layout(out))  # as a run does when it starts
    rows = query(out, "select uri, tag from confident order by 1, 2").to_pylist()
    assert [(row["uri"][-5:], row["tag"]) for row in rows] == [("0.jpg", "jar"), ("1.jpg", "cup"), ("1.jpg", "jar")]


def test_a_slip_on_the_command_line_is_a_line_that_says_what_to_do(boxes: Path, batchtag: Typed) -> None:
    (boxes / "empty").mkdir()
    (boxes / "begun").mkdir()
    (boxes / "begun" / "training.json").write_text("{}")
    slips = {
        ("evaluate", "./nothing", "--data", "val/instances.json"): r"nothing lies there; name a checkpoint's folder",
        ("evaluate", "empty", "--data", "val/instances.json"): r"no checkpoint \(no model\.json\) and holds no tables",
        ("evaluate", "begun", "--data", "val/instances.json"): r"training has not ended; the same `batchtag train`",
        ("evaluate", "resnet5O", "--data", "val/instances.json"): r"no .* builder 'resnet5O'; did you mean 'resnet50'",
        ("evaluate", "tags", "--data", "tags"): r"tags: holds the tables of a run, which are no truth",
        ("evaluate", "tags", "--data", "nothing"): r"nothing: nothing lies there",
        ("evaluate", "tags", "--data", "nothing.json"): r"nothing\.json: nothing lies there",
        ("evaluate", "tags", "--data", "val/instances.json", "--model", "dett"): r"no model 'dett'.* it has det@",
        ("evaluate", "tags", "--data", "val/instances.json", "--score-floor", "0.3"): r"leave it out",
        ("evaluate", "tags", "--data", "val/instances.json", "--store-thresholds"): r"name a checkpoint's folder",
        ("evaluate", "resnet50", "--data", "val/instances.json", "--device", "tpu"): r"must be auto, cpu or cuda",
    }
    for words, expected in slips.items():
        code, answer, story = batchtag(*words)
        assert (code, answer) == (2, ""), words
        assert re.fullmatch(rf"batchtag: .*{expected}.*\n", story), (words, story)
    assert not (boxes / "evaluation").exists()


def test_options_that_would_be_ignored_are_all_named_at_once(classes: Path, batchtag: Typed) -> None:
    code, _, story = batchtag("evaluate", "resnet50", "--data", "val", "--model", "x", "--store-thresholds")
    assert (code, len(story.splitlines())) == (2, 2)
    assert "--model chooses among the models of an OUT, and resnet50 is one model" in story
    assert "--store-thresholds writes into a checkpoint, and resnet50 is none" in story


def test_a_model_of_the_other_task_is_told_before_any_image_is_opened(boxes: Path, classes: Path) -> None:
    spec = TorchvisionSpec(builder="squeezenet1_1", weights="none")
    with pytest.raises(UsageError, match="squeezenet1_1 gives class tags, and the data are to detect"):
        prepared(spec, task="detect")


def test_a_published_model_is_judged_by_labels_of_its_own_names(tmp_path: Path) -> None:
    ground_truth = open_dataset(make_coco(Place(root=str(tmp_path)), {"a": [("person", 1.0, 1.0, 30.0, 40.0)]}))
    published = info("published", "object", labels=("", "person", "bicycle"))
    boxes = [("person", 0.9, (1.0, 1.0, 30.0, 40.0)), ("bicycle", 0.8, (1.0, 1.0, 30.0, 40.0))]
    out = tagged_out(str(tmp_path / "tags"), {"s3://photos/a.jpg": Seen(boxes={"published": boxes})}, [published])
    found = evaluate_out(out, ground_truth, data="truth")
    assert headline_text(found.score).startswith("AP 1.000")
    assert found.score.unknown_tags == ("bicycle",)


def test_a_class_that_cannot_be_measured_has_a_dash_in_the_table(boxes: Path) -> None:
    tagged_out(str(boxes / "none"), {f"s3://photos/{name}.jpg": Seen(boxes={}) for name in THINGS}, [OTHER])
    _, rows = class_rows(evaluate_out(str(boxes / "none"), open_ground_truth(str(boxes / "val")), data="val").score)
    assert rows[0] == ["cup", "2", "0", "0.000", "0.000", "-", "-", "-", "-"]


def test_a_report_goes_to_any_store(boxes: Path, bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluate_out(str(boxes / "tags"), open_ground_truth(str(boxes / "val")), data="val")
    uris = write_evaluation(found, f"{bucket}/report", storage_options=s3.storage_options)
    assert uris == (f"{bucket}/report/evaluation.json", f"{bucket}/report/report.html")
    assert json.loads(s3.store.read(uris[0]).data) == found.as_dict()


def test_images_without_a_ground_truth_worth_measuring_are_told_and_left_out(classes: Path) -> None:
    (classes / "val" / "cup" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    checked = checked_ground_truth(open_ground_truth(str(classes / "val")), told=lambda _: None)
    assert (len(checked.images), [one.kind for one in checked.problems]) == (6, ["undecodable"])


def test_scenes_are_what_train_and_evaluate_read_and_one_seed_is_one_drawing(tmp_path: Path, batchtag: Typed) -> None:
    for folder in ("one", "two"):
        code, answer, story = batchtag("scenes", folder, "--images", "2", "--seed", "7", "--crops")
        assert (code, answer) == (0, "")
        assert "2 images in one/images, the truth in one/instances.json" in story or folder == "two"
    one, two = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("one", "two"))
    assert [p.relative_to(tmp_path / "one") for p in one] == [p.relative_to(tmp_path / "two") for p in two]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    shelves = checked_ground_truth(open_ground_truth(str(tmp_path / "one" / "instances.json")), told=lambda _: None)
    crops = checked_ground_truth(open_ground_truth(str(tmp_path / "one" / "crops")), told=lambda _: None)
    assert (shelves.task, crops.task) == ("detect", "classify")
    assert (len(shelves.images), shelves.problems) == (2, ())
    assert len(crops.images) == sum(len(image.label_ids) for image in shelves.images)

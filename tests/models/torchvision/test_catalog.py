"""The list of published models, and the command that prints it."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from batchtag.cli.models import register
from batchtag.models.torchvision.catalog import catalog


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_detector_and_classifier_is_listed_best_first_within_its_task() -> None:
    entries = catalog()
    by_task = {task: [one for one in entries if one.task == task] for task in ("detect", "classify")}
    assert [entry.task for entry in entries] == ["detect"] * len(by_task["detect"]) + ["classify"] * len(
        by_task["classify"]
    )
    for some in by_task.values():
        metrics = [entry.metric for entry in some if entry.num_tags > 1]
        assert metrics == sorted(metrics, reverse=True)
    assert by_task["detect"][0].name == "maskrcnn_resnet50_fpn_v2"


def test_an_entry_has_the_published_figures() -> None:
    entry = next(one for one in catalog(only_default=True) if one.name == "fasterrcnn_resnet50_fpn_v2")
    assert (entry.weights, entry.metric_name, entry.metric) == ("COCO_V1", "box_map COCO-val2017", 46.7)
    assert (entry.num_params, round(entry.size_mb), round(entry.gflops), entry.num_tags) == (43_712_278, 167, 280, 80)


def test_only_default_gives_one_entry_a_builder() -> None:
    names = [entry.name for entry in catalog(only_default=True)]
    assert len(names) == len(set(names)) < len(catalog())


def test_the_command_prints_whole_names_and_the_same_entries_as_json() -> None:
    assert "fasterrcnn_mobilenet_v3_large_320_fpn" in run("--task", "detect")
    assert "[@WEIGHTS]" in run()
    listed = json.loads(run("--json", "--weights", "all", "--task", "classify"))
    assert listed == [entry.as_dict() for entry in catalog(task="classify")]

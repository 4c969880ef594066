"""The list of published models, and the command that prints it."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from batchtag.cli.models import register
from batchtag.models.torchvision.catalog import list_catalog


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_detectors_come_before_classifiers_and_the_best_of_each_task_first() -> None:
    entries = list_catalog()
    by_task = {task: [entry for entry in entries if entry.task == task] for task in ("detect", "classify")}
    assert entries == by_task["detect"] + by_task["classify"]
    for same_task in by_task.values():
        metrics = [entry.metric for entry in same_task if entry.num_tags > 1]
        assert metrics == sorted(metrics, reverse=True)
    assert by_task["detect"][0].name == "maskrcnn_resnet50_fpn_v2"


def test_an_entry_has_the_published_figures() -> None:
    entry = next(entry for entry in list_catalog(only_default=True) if entry.name == "fasterrcnn_resnet50_fpn_v2")
    assert (entry.weights, entry.metric_name, entry.metric) == ("COCO_V1", "box_map COCO-val2017", 46.7)
    assert (entry.num_params, round(entry.size_mb), round(entry.gflops), entry.num_tags) == (43_712_278, 167, 280, 80)


def test_only_default_gives_one_entry_for_each_builder() -> None:
    names = [entry.name for entry in list_catalog(only_default=True)]
    assert len(names) == len(set(names)) < len(list_catalog())


def test_the_command_prints_complete_names_and_the_same_entries_as_json() -> None:
    assert "fasterrcnn_mobilenet_v3_large_320_fpn" in run("--task", "detect")
    assert "[@WEIGHTS]" in run()
    listed = json.loads(run("--json", "--weights", "all", "--task", "classify"))
    assert listed == [entry.as_dict() for entry in list_catalog(task="classify")]

"""`batchtag train` as a person types it: real Ray, real deaths, a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from batchtag.config.model import CheckpointSpec
from batchtag.config.training import STATES, TrainSpec, with_absolute_uris
from batchtag.system import available_cores
from batchtag.training.loop import Place, Worker
from batchtag.training.plan import plan_training
from tests.support.s3server import S3Server
from tests.support.started import Start, Typed

from .conftest import classification_job, data_of, detection_job, draw_classes


def written(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def heard(process: subprocess.Popen[str], pattern: str, *, also: Callable[[], bool] = lambda: True) -> str:
    """The first line on stderr that has the pattern when `also` is true; fails with what was said if it never comes."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if re.search(pattern, line) and also():
            return line
    raise AssertionError("".join(said))


def last_noted(out: Path) -> int:
    """The last epoch whose state Ray Train's controller has noted; it may come a while after the epoch is told."""
    snapshot = out / STATES / "checkpoint_manager_snapshot.json"
    results = json.loads(snapshot.read_text())["checkpoint_results"] if snapshot.exists() else []
    return max((result["metrics"]["epoch"] for result in results), default=0)


def undisturbed_digest(content: dict[str, Any], out: Path) -> str:
    """The digest of the checkpoint that the same job gives without Ray and without a death."""
    content = content | {"output": {"uri": str(out)}}
    spec = with_absolute_uris(TrainSpec.model_validate(content))
    plan = plan_training(spec, data_of(content), use_gpu=False, cores=available_cores())
    worker = Worker(plan, Place(rank=0, ranks=1, device="cpu"), wrap=lambda network: network, tell=lambda news: None)
    while not worker.state.is_over:
        worker.epoch()
    score = worker.judge_best()
    assert score is not None
    return worker.save(score)


def test_a_training_whose_worker_and_whose_driver_were_killed_ends_as_if_nothing_had_been(
    start: Start, tmp_path: Path
) -> None:
    """The same digest: the same weights to the last bit."""
    out = tmp_path / "out"
    content = classification_job(draw_classes(tmp_path / "colours", num_images=24), out, epochs=9, ema=0.9)
    job = written(tmp_path / "job.yaml", content)
    first = start("train", job)
    heard(first, r"epoch +[3-7] of 9", also=lambda: last_noted(out) >= 3)
    workers = [p for p in psutil.Process(first.pid).children(recursive=True) if "RayTrainWorker" in p.name()]
    assert len(workers) == 1
    workers[0].kill()
    heard(first, r"going on after epoch [3-7] of 9")
    heard(first, r"epoch +[4-8] of 9 +loss", also=lambda: last_noted(out) >= 4)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start("train", job, "--json")
    answer, story = second.communicate(timeout=300)
    assert second.returncode == 0, story
    assert re.search(r"going on after epoch [4-8] of 9", story)
    report = json.loads(answer)
    assert [entry["epoch"] for entry in report["history"]] == list(range(1, 10))
    assert report["digest"] == undisturbed_digest(content, tmp_path / "undisturbed")
    kept = {"model.json", "weights.safetensors", "history.json", "training.json", "evaluation.json", "report.html"}
    assert {path.name for path in out.iterdir()} == kept | {"tensorboard"}


def test_two_workers_train_together_into_a_bucket_and_the_same_command_finds_it_done(
    start: Start, typed: Typed, boxes: Path, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    if available_cores() < 2:
        pytest.skip("needs two cores: each worker asks for one")
    content = detection_job(boxes, Path("unused"))
    content["output"] = {"uri": f"{bucket}/models/boxes", "storage_options": s3.storage_options}
    content["compute"]["workers"] = 2
    job = written(tmp_path / "job.yaml", content)
    first = start("train", job, "--json")
    answer, story = first.communicate(timeout=300)
    assert first.returncode == 0, story
    report = json.loads(answer)
    assert len(report["history"]) == 2
    assert "AP" in report["metrics"]
    from batchtag import models

    info = models.prepare(CheckpointSpec(**content["output"]))
    assert [label for label in info.labels if label] == ["blue", "red"]
    second = typed("train", job, "--json")
    assert (second.code, "is trained already" in second.err) == (0, True), second.err
    assert json.loads(second.out)["digest"] == report["digest"]


@pytest.mark.parametrize(
    ("sections", "code", "line"),
    [
        ({"network": {"architecture": "resnet19"}}, 2, "no detection or classification builder 'resnet19'"),
        ({"network": {"architecture": "fasterrcnn_small_fpn"}}, 2, "cannot be said of a detector"),
        ({"network": {"arguments": {"width": 3}}}, 1, "resnet18 cannot be built with {'width': 3}"),
        ({"train": {"epoch": 3}}, 2, "train.epoch is not a key of a job; did you mean 'epochs'?"),
        ({"output": {"uri": "taken"}}, 1, "holds a checkpoint that no training left here"),
    ],
    ids=["builder", "task", "arguments", "key", "taken"],
)
def test_what_cannot_be_trained_is_one_line_before_ray_is_started(
    sections: dict[str, dict[str, Any]],
    code: int,
    line: str,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: Typed,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "model.json").write_text("{}")
    content = classification_job(colours, tmp_path / "out")
    content["network"]["architecture"] = "resnet18"
    for section, said in sections.items():
        content[section] = content[section] | said
    ended, _, story = typed("train", written(tmp_path / "job.yaml", content))
    assert (ended, "starting Ray" in story) == (code, False)
    (last,) = [said for said in story.splitlines() if said.startswith("batchtag: ")]
    assert line in last

"""`batchtag train` as a user runs it: with a real Ray, killed processes and a real S3 server."""

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
from batchtag.config.training import STATES
from batchtag.system import available_cores
from tests.support.s3server import S3Server
from tests.support.started import RunCommand, StartCommand

from .conftest import classification_job, detection_job, draw_classes, make_process, train


def write_job(path: Path, job: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(job))
    return str(path)


def wait_for_line(process: subprocess.Popen[str], pattern: str, *, condition: Callable[[], bool] = lambda: True) -> str:
    """Return the first line on stderr that has the pattern while `condition` is true; fail if it never comes."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line) and condition():
            return line
    raise AssertionError("".join(lines))


def last_stored_epoch(out: Path) -> int:
    """Return the last epoch whose state Ray Train's controller has recorded, which is later than the printed line."""
    snapshot = out / STATES / "checkpoint_manager_snapshot.json"
    results = json.loads(snapshot.read_text())["checkpoint_results"] if snapshot.exists() else []
    return max((result["metrics"]["epoch"] for result in results), default=0)


def uninterrupted_digest(job: dict[str, Any], out: Path) -> str:
    """Return the digest of the checkpoint that the same job gives without Ray and without an interruption."""
    process = train(make_process(job | {"output": {"uri": str(out)}}, cores=available_cores()))
    score = process.evaluate_best()
    assert score is not None
    return process.save_checkpoint(score)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # four trainings with Ray: 127 s alone, 303 s on a busy machine
def test_a_training_whose_worker_and_driver_were_killed_ends_with_the_same_weights(
    start_command: StartCommand, tmp_path: Path
) -> None:
    """The same digest means the same weights to the last bit."""
    out = tmp_path / "out"
    job = classification_job(draw_classes(tmp_path / "colours", num_images=24), out, epochs=9, ema=0.9)
    job_file = write_job(tmp_path / "job.yaml", job)
    # 1. Kill the worker; Ray Train starts another one.
    first = start_command("train", job_file)
    wait_for_line(first, r"epoch +[3-7] of 9", condition=lambda: last_stored_epoch(out) >= 3)
    workers = [p for p in psutil.Process(first.pid).children(recursive=True) if "RayTrainWorker" in p.name()]
    assert len(workers) == 1
    workers[0].kill()
    wait_for_line(first, r"continuing after epoch [3-7] of 9")
    # 2. Kill the driver; the same command continues.
    wait_for_line(first, r"epoch +[4-8] of 9 +loss", condition=lambda: last_stored_epoch(out) >= 4)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start_command("train", job_file, "--json")
    stdout, stderr = second.communicate(timeout=300)
    assert second.returncode == 0, stderr
    assert re.search(r"continuing after epoch [4-8] of 9", stderr)
    report = json.loads(stdout)
    assert [entry["epoch"] for entry in report["history"]] == list(range(1, 10))
    assert report["digest"] == uninterrupted_digest(job, tmp_path / "uninterrupted")
    names = {"model.json", "weights.safetensors", "history.json", "training.json", "evaluation.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names | {"tensorboard"}


@pytest.mark.slow
def test_two_workers_train_together_into_a_bucket_and_the_same_command_then_does_nothing(
    start_command: StartCommand, run_command: RunCommand, boxes: Path, tmp_path: Path, s3: S3Server, bucket: str
) -> None:
    if available_cores() < 2:
        pytest.skip("needs two cores: each worker needs one")
    job = detection_job(boxes, Path("unused"))
    job["output"] = {"uri": f"{bucket}/models/boxes", "storage_options": s3.storage_options}
    job["compute"]["workers"] = 2
    job_file = write_job(tmp_path / "job.yaml", job)
    first = start_command("train", job_file, "--json")
    stdout, stderr = first.communicate(timeout=300)
    assert first.returncode == 0, stderr
    report = json.loads(stdout)
    assert len(report["history"]) == 2
    assert "AP" in report["metrics"]
    from batchtag import models

    info = models.prepare(CheckpointSpec(**job["output"]))
    assert [label for label in info.labels if label] == ["blue", "red"]
    second = run_command("train", job_file, "--json")
    assert (second.code, "is already trained" in second.err) == (0, True), second.err
    assert json.loads(second.out)["digest"] == report["digest"]


@pytest.mark.parametrize(
    ("sections", "code", "message"),
    [
        ({"network": {"architecture": "resnet19"}}, 2, "no detection or classification builder is called 'resnet19'"),
        ({"network": {"architecture": "fasterrcnn_small_fpn"}}, 2, "can only be set for a classifier"),
        ({"network": {"arguments": {"width": 3}}}, 1, "resnet18 cannot be built with {'width': 3}"),
        ({"train": {"epoch": 3}}, 2, "did you mean 'epochs'?"),
        ({"output": {"uri": "used"}}, 1, "used already has a checkpoint, but no training.json"),
    ],
    ids=["builder", "task", "arguments", "key", "used output"],
)
def test_a_job_that_cannot_be_trained_gives_one_line_before_ray_starts(
    sections: dict[str, dict[str, Any]],
    code: int,
    message: str,
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: RunCommand,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "model.json").write_text("{}")
    job = classification_job(colours, tmp_path / "out")
    job["network"]["architecture"] = "resnet18"
    for section, settings in sections.items():
        job[section] = job[section] | settings
    ended, _, stderr = run_command("train", write_job(tmp_path / "job.yaml", job))
    assert (ended, "starting Ray" in stderr) == (code, False)
    (last_line,) = [line for line in stderr.splitlines() if line.startswith("batchtag: ")]
    assert message in last_line

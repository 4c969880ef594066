"""The contenders, and one run of each: a process of its own, its answers, and its two times."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.compare import Answers, read_answers
from benchmarks.speed.peers.task import Task
from benchmarks.speed.s3server import s3_environment

OURS = "batchtag"
PEERS = {"plain": "plain", "list": "list_of_images", "ray": "ray_data", "daft": "daft_udf"}
TITLES = {
    OURS: "batchtag run",
    "plain": "PyTorch DataLoader",
    "list": "model(list_of_images)",
    "ray": "Ray Data",
    "daft": "Daft",
}
_CLI = "from batchtag.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class ContenderRun:
    """One run of a contender. Times are in seconds. `problem` is "", or the reason why the rest is missing."""

    num_images: int = 0
    tagging_s: float = 0.0
    whole_s: float = 0.0
    answers: Answers | None = None
    problem: str = ""

    @property
    def images_per_s(self) -> float:
        """While tagging."""
        return self.num_images / self.tagging_s if self.tagging_s else 0.0


def run_contender(name: str, task: Task, *, folder: Path, python: str, timeout_s: float) -> ContenderRun:
    """Run one contender over one task. `folder` is emptied before and removed after.

    A failure of the contender is not raised; it is the `problem` of the result.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "task.json"
    task.write(path)
    command = (
        _batchtag_command(task) if name == OURS else [python, "-m", f"benchmarks.speed.peers.{PEERS[name]}", str(path)]
    )
    try:
        started_at = time.monotonic()
        stdout, stderr, status = run_command(command, task, timeout_s=timeout_s)
        whole_s = time.monotonic() - started_at
        if status:
            last = [line for line in stderr.splitlines() if line.strip()][-1:] or ["nothing on stderr"]
            return ContenderRun(problem=f"ended with {status}: {last[0][:200]}")
        return ContenderRun(
            num_images=len(task.keys),
            tagging_s=_batchtag_tagging_s(json.loads(stdout), task) if name == OURS else task.tagging_s(),
            whole_s=whole_s,
            answers=read_answers(Path(task.out)),
        )
    except subprocess.TimeoutExpired:
        return ContenderRun(problem=f"not finished after {timeout_s:.0f} s")
    except (OSError, ValueError, KeyError) as error:
        return ContenderRun(problem=f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _batchtag_command(task: Task) -> list[str]:
    """Return `batchtag run` as a user types it."""
    kind = task.keys[0].split("/")[0]
    command = [sys.executable, "-c", _CLI, "run", f"s3://{task.bucket}/{kind}/", "--out", task.out, "--json"]
    for folder in task.models:
        model: dict[str, Any] = json.loads((Path(folder) / "model.json").read_text())
        command += ["--detector" if model["task"] == "detect" else "--classifier", folder]
    return [*command, "--limit", str(len(task.keys))]


def _batchtag_tagging_s(report: Mapping[str, Any], task: Task) -> float:
    if report["num_tagged"] != len(task.keys):
        raise ValueError(f"batchtag tagged {report['num_tagged']} of {len(task.keys)} images")
    return float(report["this_run"]["tagging_s"])


def run_command(command: Sequence[str], task: Task, *, timeout_s: float) -> tuple[str, str, int]:
    """Return stdout, stderr and status of a command.

    Raises TimeoutExpired after `timeout_s`; the command and every process of its group are killed then.
    """
    variables = os.environ | s3_environment(task.endpoint_url) | {"PYTHONWARNINGS": "ignore", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return stdout, stderr, process.returncode

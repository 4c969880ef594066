"""Who takes part, and one run of each: a process of its own, what it wrote, and its two times."""

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

from benchmarks.speed.compare import Answers, read
from benchmarks.speed.peers.task import Task
from benchmarks.speed.s3server import environment

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
class Outcome:
    """One run. Times in seconds; `problem` is "" or why there is nothing else to know."""

    num_images: int = 0
    tagging_s: float = 0.0
    whole_s: float = 0.0
    answers: Answers | None = None
    problem: str = ""

    @property
    def images_per_s(self) -> float:
        """While tagging."""
        return self.num_images / self.tagging_s if self.tagging_s else 0.0


def run(name: str, task: Task, *, place: Path, python: str, timeout_s: float) -> Outcome:
    """One contender over one task, in an empty `place`, gone afterwards. A contender's fault is in the outcome."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    path = place / "task.json"
    task.write(path)
    words = _ours(task) if name == OURS else [python, "-m", f"benchmarks.speed.peers.{PEERS[name]}", str(path)]
    try:
        began = time.monotonic()
        answer, story, status = ended(words, task, timeout_s=timeout_s)
        whole_s = time.monotonic() - began
        if status:
            last = [line for line in story.splitlines() if line.strip()][-1:] or ["it said nothing"]
            return Outcome(problem=f"ended with {status}: {last[0][:200]}")
        return Outcome(
            num_images=len(task.keys),
            tagging_s=_our_tagging_s(json.loads(answer), task) if name == OURS else task.tagging_s(),
            whole_s=whole_s,
            answers=read(Path(task.out)),
        )
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"not done after {timeout_s:.0f} s")
    except (OSError, ValueError, KeyError) as error:
        return Outcome(problem=f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _ours(task: Task) -> list[str]:
    """As a user types it."""
    kind = task.keys[0].split("/")[0]
    words = [sys.executable, "-c", _CLI, "run", f"s3://{task.bucket}/{kind}/", "--out", task.out, "--json"]
    for folder in task.models:
        described: dict[str, Any] = json.loads((Path(folder) / "model.json").read_text())
        words += ["--detector" if described["task"] == "detect" else "--classifier", folder]
    return [*words, "--limit", str(len(task.keys))]


def _our_tagging_s(report: Mapping[str, Any], task: Task) -> float:
    if report["num_tagged"] != len(task.keys):
        raise ValueError(f"batchtag tagged {report['num_tagged']} of {len(task.keys)} images")
    return float(report["this_run"]["tagging_s"])


def ended(words: Sequence[str], task: Task, *, timeout_s: float) -> tuple[str, str, int]:
    """stdout, stderr and status of a command. Whatever it started is ended with it when its time is over."""
    variables = os.environ | environment(task.endpoint_url) | {"PYTHONWARNINGS": "ignore", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(
        words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        answer, story = process.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return answer, story, process.returncode

"""What starting costs: `batchtag run` on ten images, beside Ray's own start and the loading of the model alone.

    python -m benchmarks.start [--rounds 3] [--classifier BUILDER] [--json FILE]

Three commands in turn, each a process of its own from its first import to its end: Ray as a run starts it, with one
task that imports nothing; the model loaded as a worker loads it; and the whole run. The model is untrained, because
weights are fetched once and not at every start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.line import CLI, draw

NUM_IMAGES = 10
_RAY = (
    "from batchtag.session import RaySession; session = RaySession(address='', verbose=False); session.start(); "
    "session.ready.result(); import ray; ray.get(ray.remote(lambda: 1).remote()); session.stop(keep_logs=False)"
)
_MODEL = (
    "from batchtag.models import Runtime, load; from batchtag.models.runtime import engine_on; "
    "from batchtag.models.spec import TorchvisionSpec; from batchtag.processes import available_cores; "
    "load(TorchvisionSpec(builder={builder!r}, weights='none'), "
    "runtime=Runtime(engine=engine_on('cpu'), threads=available_cores()))"
)


def main() -> None:
    """Run the three in turn and print their medians, and what the run takes beyond the other two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classifier", default="mobilenet_v3_large")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {"ray": [], "model": [], "run": []}
    phases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="start-") as name:
        images = Path(name) / "images"
        draw(images, NUM_IMAGES)
        for number in range(asked.rounds):
            words = ["run", str(images), "--out", f"{name}/out-{number}", "--json"]
            words += ["--classifier", asked.classifier, "--weights", "none"]
            seconds["ray"].append(_seconds([sys.executable, "-c", _RAY])[0])
            seconds["model"].append(_seconds([sys.executable, "-c", _MODEL.format(builder=asked.classifier)])[0])
            taken, answer = _seconds([*CLI, *words])
            seconds["run"].append(taken)
            phases = json.loads(answer)["seconds_by_phase"]
    ray, model, run = (median(seconds[what]) for what in ("ray", "model", "run"))
    print(f"Ray starts and ends        {ray:6.1f} s")
    print(f"the model loads            {model:6.1f} s   ({asked.classifier})")
    print(f"a run on {NUM_IMAGES} images       {run:6.1f} s   the last: {phases}")
    print(
        f"beyond both, one after the other {run - ray - model:+.1f} s; beyond the longer {run - max(ray, model):+.1f} s"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"seconds": seconds, "phases": phases}, indent=1))


def _seconds(words: list[str]) -> tuple[float, str]:
    """How long a command takes, and what it says on stdout."""
    began = time.monotonic()
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.monotonic() - began, ended.stdout


if __name__ == "__main__":
    main()

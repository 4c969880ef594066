"""The cost of starting: `batchtag run` on ten images, compared with the start of Ray alone and of the model alone.

    python -m benchmarks.start [--rounds 3] [--classifier BUILDER] [--json FILE]

Three commands run in turn, each in a process of its own, measured from its first import to its end: Ray as a run starts
it, with one task that imports nothing; the model as a worker loads it; and the whole run. The model is untrained,
because weights are fetched once and not at every start.
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

from benchmarks.line import CLI, write_images

NUM_IMAGES = 10


def main() -> None:
    """Run the three in turn, and print their medians and what the run takes beyond the other two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classifier", default="mobilenet_v3_large")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"ray": [], "model": [], "run": []}
    phases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="start-") as name:
        images = Path(name) / "images"
        write_images(images, NUM_IMAGES)
        for number in range(args.rounds):
            words = ["run", str(images), "--out", f"{name}/out-{number}", "--json"]
            words += ["--classifier", args.classifier, "--weights", "none"]
            seconds["ray"].append(_measure_function("start_ray()"))
            seconds["model"].append(_measure_function(f"load_model({args.classifier!r})"))
            run_s, stdout = _measure_command([*CLI, *words])
            seconds["run"].append(run_s)
            phases = json.loads(stdout)["seconds_by_phase"]
    ray, model, run = (median(seconds[what]) for what in ("ray", "model", "run"))
    print(f"Ray starts and ends        {ray:6.1f} s")
    print(f"the model loads            {model:6.1f} s   ({args.classifier})")
    print(f"a run on {NUM_IMAGES} images       {run:6.1f} s   phases of the last: {phases}")
    print(
        f"beyond both, one after the other {run - ray - model:+.1f} s; beyond the longer {run - max(ray, model):+.1f} s"
    )
    if args.json:
        args.json.write_text(json.dumps({"seconds": seconds, "phases": phases}, indent=1))


def start_ray() -> None:
    """Start Ray as a run starts it, execute one task, and end it."""
    from batchtag.cluster.session import RaySession

    session = RaySession(address="", verbose=False)
    session.start()
    session.ready.result()

    import ray

    ray.get(ray.remote(lambda: 1).remote())
    session.stop(keep_logs=False)


def load_model(builder: str) -> None:
    """Load an untrained torchvision model as a worker loads it on a CPU."""
    from batchtag.config.model import TorchvisionSpec
    from batchtag.models import Runtime, load
    from batchtag.models.acceleration.runtime import choose_engine
    from batchtag.system import available_cores

    runtime = Runtime(engine=choose_engine("cpu"), threads=available_cores())
    load(TorchvisionSpec(builder=builder, weights="none"), runtime=runtime)


def _measure_function(call: str) -> float:
    """Return the seconds of a function of this module in a process of its own."""
    return _measure_command([sys.executable, "-c", f"from benchmarks.start import *; {call}"])[0]


def _measure_command(command: list[str]) -> tuple[float, str]:
    """Return the seconds of a command, and its stdout."""
    started_at = time.monotonic()
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return time.monotonic() - started_at, completed.stdout


if __name__ == "__main__":
    main()

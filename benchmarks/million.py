"""A million rows of the index: the time to the first committed part, and what a head keeps of the job.

    python -m benchmarks.million [--images 10000 1000000] [--json FILE]

Starts a head with its dashboard and submits a job whose images are many names of 64 tiny files, 10,000 in a folder,
with the `constant` model, so that there are almost no pixels. Each size in turn. A row shows the seconds of listing,
from `submit` to the first committed part, and to the end; the largest resident memory of the driver, and of the head's
own processes together (PSS, without workers); the bytes of the index in OUT; and the bytes that were added on the
head's disk (logs) and in its list of jobs. `batchtag verify` must pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.heads import Head, run_ray_head
from benchmarks.line import CLI, write_images

SAMPLE_S, FOLDER_IMAGES = 0.5, 10_000
COLUMNS = (
    "images",
    "listed s",
    "first part s",
    "all s",
    "driver MiB",
    "head MiB",
    "index KiB",
    "disk KiB",
    "job bytes",
)


def main() -> None:
    """Measure each size on a head of its own, so that no head has the memory of two sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    results = []
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for num_images in args.images:
        with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name:
            folder = Path(name)
            for number, first in enumerate(range(0, num_images, FOLDER_IMAGES)):
                write_images(folder / "images" / f"{number:04d}", min(FOLDER_IMAGES, num_images - first))
            (folder / "head").mkdir()
            with run_ray_head(folder / "head") as head:
                results.append(measure_run(folder, head))
        print("  ".join(f"{results[-1][name]:>12,.0f}" for name in COLUMNS), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def measure_run(folder: Path, head: Head) -> dict[str, Any]:
    """Submit one run and measure it from outside."""
    out, environment = folder / "out", {**os.environ, "RAY_ADDRESS": head.address}
    disk_before = size_bytes(folder / "head")
    peaks = {"driver": 0, "head": 0}
    is_over = threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(head, peaks, is_over))
    sampler.start()
    started_at = time.monotonic()
    command = [*CLI, "submit", str(write_job(folder, out)), "--insecure"]
    run_id = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    waiting = subprocess.Popen(
        [*CLI, "wait", run_id, "--quiet", "--insecure"], env=environment, stderr=subprocess.DEVNULL
    )
    while not any((out / "images").glob("*.parquet")) and waiting.poll() is None:
        time.sleep(0.1)
    first_s = time.monotonic() - started_at
    if waiting.wait():
        raise SystemExit(f"run {run_id} failed")
    all_s = time.monotonic() - started_at
    is_over.set()
    sampler.join()
    subprocess.run([*CLI, "verify", str(out)], check=True, stdout=subprocess.DEVNULL)
    (record,) = [json.loads(path.read_text()) for path in (out / "_batchtag" / "runs").glob("*.json")]
    return {
        "images": record["num_done"],
        "listed s": record["seconds_by_phase"]["listing"],
        "first part s": first_s,
        "all s": all_s,
        "driver MiB": peaks["driver"] / 2**20,
        "head MiB": peaks["head"] / 2**20,
        "index KiB": size_bytes(out / "_batchtag" / "index") / 2**10,
        "disk KiB": (size_bytes(folder / "head") - disk_before) / 2**10,
        "job bytes": len(urllib.request.urlopen(f"{head.address}/api/jobs/").read()),
    }


def sample_memory(head: Head, peaks: dict[str, int], is_over: threading.Event) -> None:
    """Keep in `peaks` the largest resident memory of the driver, and the largest PSS of the head's own processes."""
    while not is_over.wait(SAMPLE_S):
        head_bytes = 0
        for process in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
            try:
                title = " ".join(process.cmdline())
                if "batchtag" in title:
                    peaks["driver"] = max(peaks["driver"], process.memory_info().rss)
                elif not title.startswith("ray::"):
                    head_bytes += process.memory_full_info().pss
            except psutil.Error:
                continue
        peaks["head"] = max(peaks["head"], head_bytes)


def write_job(folder: Path, out: Path) -> Path:
    """Write a job over all images with the `constant` model, and return its path."""
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [{"kind": "constant"}],
        "output": {"uri": str(out)},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def size_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()

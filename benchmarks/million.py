"""A million index rows: how soon the first part is committed, and what a head keeps of them.

    python -m benchmarks.million [--images 10000 1000000] [--json FILE]

A head with its dashboard, and on it `batchtag submit` of a job whose images are many names of 64 tiny files, 10,000
in a folder, with the `constant` model: no pixels to speak of. Each size in turn. A row says: seconds of listing, from
`submit` to the first committed part, and to the end; the largest resident memory of the driver, and of all the head's
own processes together (PSS; workers left out); bytes of the index in OUT; and what the head has more than before, on
its disk (logs) and in its list of jobs. `batchtag verify` must pass.
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

from benchmarks.heads import Head, ray_head
from benchmarks.line import CLI, draw

SAMPLE_S, IN_FOLDER = 0.5, 10_000
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
    """Each size on a head of its own, so that neither's memory is the other's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    results = []
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for num_images in asked.images:
        with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name:
            folder = Path(name)
            for number, first in enumerate(range(0, num_images, IN_FOLDER)):
                draw(folder / "images" / f"{number:04d}", min(IN_FOLDER, num_images - first))
            (folder / "head").mkdir()
            with ray_head(folder / "head") as head:
                results.append(measure(folder, head, num_images))
        print("  ".join(f"{results[-1][name]:>12,.0f}" for name in COLUMNS), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))


def measure(folder: Path, head: Head, num_images: int) -> dict[str, Any]:
    """One submitted run, watched from outside."""
    out, environment = folder / "out", {**os.environ, "RAY_ADDRESS": head.address}
    disk_before = bytes_under(folder / "head")
    peaks = {"driver": 0, "head": 0}
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(head, peaks, over))
    watcher.start()
    began = time.monotonic()
    words = [*CLI, "submit", str(job(folder, out)), "--insecure"]
    run = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    waiting = subprocess.Popen([*CLI, "wait", run, "--quiet", "--insecure"], env=environment, stderr=subprocess.DEVNULL)
    while not any((out / "images").glob("*.parquet")) and waiting.poll() is None:
        time.sleep(0.1)
    first_s = time.monotonic() - began
    if waiting.wait():
        raise SystemExit(f"run {run} did not end well")
    all_s = time.monotonic() - began
    over.set()
    watcher.join()
    subprocess.run([*CLI, "verify", str(out)], check=True, stdout=subprocess.DEVNULL)
    (record,) = [json.loads(path.read_text()) for path in (out / "_batchtag" / "runs").glob("*.json")]
    return {
        "images": record["num_done"],
        "listed s": record["seconds_by_phase"]["listing"],
        "first part s": first_s,
        "all s": all_s,
        "driver MiB": peaks["driver"] / 2**20,
        "head MiB": peaks["head"] / 2**20,
        "index KiB": bytes_under(out / "_batchtag" / "index") / 2**10,
        "disk KiB": (bytes_under(folder / "head") - disk_before) / 2**10,
        "job bytes": len(urllib.request.urlopen(f"{head.address}/api/jobs/").read()),
    }


def watch(head: Head, peaks: dict[str, int], over: threading.Event) -> None:
    """Keep the largest resident memory of the driver, and the largest sum over the head's own processes."""
    while not over.wait(SAMPLE_S):
        own = 0
        for one in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
            try:
                title = " ".join(one.cmdline())
                if "batchtag" in title:
                    peaks["driver"] = max(peaks["driver"], one.memory_info().rss)
                elif not title.startswith("ray::"):
                    own += one.memory_full_info().pss
            except psutil.Error:
                continue
        peaks["head"] = max(peaks["head"], own)


def job(folder: Path, out: Path) -> Path:
    """A dry run over everything."""
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [{"kind": "constant"}],
        "output": {"uri": str(out)},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def bytes_under(folder: Path) -> int:
    """The size of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()

"""The speed of the pipeline without a model, from listing to commit, and whether its memory grows with the images.

    python -m benchmarks.line [--images 2000 20000] [--rounds 1] [--json FILE]

Draws small images (160 x 120 JPEGs), runs `batchtag run` on them with the `constant` model as a user would, each size
in turn, and prints one row for each run: images/s while tagging, seconds by phase, the driver's largest resident
memory, and the largest sum over all its processes (PSS: shared pages are counted once). `batchtag verify` must pass
after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
from PIL import Image, ImageDraw

CLI = [sys.executable, "-c", "from batchtag.cli import main; main()"]
"""The command `batchtag` of this interpreter."""
SAMPLE_S = 0.5
"""Seconds between two measurements of memory."""
NUM_DISTINCT = 64
"""Different images; further files are hard links to them."""


def main() -> None:
    """Run every size in every round and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'images':>8} {'images/s':>9} {'wall s':>7} {'driver MiB':>11} {'all MiB':>8}  seconds by phase")
    results = []
    with tempfile.TemporaryDirectory(prefix="line-") as name:
        for _ in range(args.rounds):
            for num_images in args.images:
                results.append(measure_run(Path(name), num_images))
                print(format_row(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def format_row(result: dict[str, Any]) -> str:
    """Return one line of the table."""
    phases = " ".join(f"{phase} {seconds:.1f}" for phase, seconds in result["seconds_by_phase"].items())
    return (
        f"{result['images']:>8,} {result['images_per_s']:>9.0f} {result['seconds']:>7.1f} "
        f"{result['driver_mib']:>11.0f} {result['all_mib']:>8.0f}  {phases}"
    )


def measure_run(folder: Path, num_images: int) -> dict[str, Any]:
    """Run the command over that many images and measure it from outside."""
    images, out = folder / f"images-{num_images}", folder / f"out-{num_images}-{os.urandom(4).hex()}"
    write_images(images, num_images)
    words = ["run", str(images), "--out", str(out), "--classifier", "constant", "--json"]
    driver = subprocess.Popen([*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peaks = {"driver": 0, "all": 0}
    is_over = threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(driver.pid, peaks, is_over))
    sampler.start()
    stdout, _ = driver.communicate()
    is_over.set()
    sampler.join()
    report = json.loads(stdout)
    subprocess.run([*CLI, "verify", str(out)], check=True, stdout=subprocess.DEVNULL)
    return {
        "images": num_images,
        "images_per_s": report["this_run"]["images_per_s"],
        "seconds": report["seconds"],
        "seconds_by_phase": report["seconds_by_phase"],
        "driver_mib": peaks["driver"] / 2**20,
        "all_mib": peaks["all"] / 2**20,
    }


def sample_memory(pid: int, peaks: dict[str, int], is_over: threading.Event) -> None:
    """Keep in `peaks` the largest resident memory of a process, and the largest PSS with its descendants, in bytes."""
    while not is_over.wait(SAMPLE_S):
        try:
            driver = psutil.Process(pid)
            family = [driver, *driver.children(recursive=True)]
            peaks["driver"] = max(peaks["driver"], driver.memory_info().rss)
            peaks["all"] = max(peaks["all"], sum(_pss_bytes(process) for process in family))
        except psutil.NoSuchProcess:
            continue


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def write_images(folder: Path, num_images: int) -> None:
    """Write NUM_DISTINCT different images under `num_images` names, unless the folder exists."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    originals = []
    for number in range(min(NUM_DISTINCT, num_images)):
        image = Image.new("RGB", (160, 120), (number * 4, 128, 255 - number * 4))
        ImageDraw.Draw(image).ellipse((20, 10, 30 + number, 100), fill="gold")
        originals.append(folder / f"{number:06d}.jpg")
        image.save(originals[-1], quality=85)
    for number in range(NUM_DISTINCT, num_images):
        os.link(originals[number % NUM_DISTINCT], folder / f"{number:06d}.jpg")


if __name__ == "__main__":
    main()

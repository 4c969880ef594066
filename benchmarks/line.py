"""The line without a model: how fast it lists, fetches, decodes and commits, and whether memory grows with the count.

    python -m benchmarks.line [--images 2000 20000] [--rounds 1] [--json FILE]

Draws small images (160 x 120 JPEGs), runs `batchtag run` on them with the `constant` model as a user would, each size
in turn, and prints a row a run: images/s while tagging, seconds by phase, the driver's largest resident memory, and the
largest sum over all its processes (PSS: shared pages are counted once). `batchtag verify` must pass after each.
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
SAMPLE_S = 0.5


def main() -> None:
    """Run every size in every round and print the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--json", type=Path)
    asked = arguments.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'images':>8} {'images/s':>9} {'wall s':>7} {'driver MiB':>11} {'all MiB':>8}  seconds by phase")
    results = []
    with tempfile.TemporaryDirectory(prefix="line-") as name:
        for _ in range(asked.rounds):
            for num_images in asked.images:
                results.append(measure(Path(name), num_images))
                print(row(results[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    phases = " ".join(f"{phase} {seconds:.1f}" for phase, seconds in result["seconds_by_phase"].items())
    return (
        f"{result['images']:>8,} {result['images_per_s']:>9.0f} {result['seconds']:>7.1f} "
        f"{result['driver_mib']:>11.0f} {result['all_mib']:>8.0f}  {phases}"
    )


def measure(folder: Path, num_images: int) -> dict[str, Any]:
    """One run over so many images, watched from outside."""
    images, out = folder / f"images-{num_images}", folder / f"out-{num_images}-{os.urandom(4).hex()}"
    draw(images, num_images)
    words = ["run", str(images), "--out", str(out), "--classifier", "constant", "--json"]
    driver = subprocess.Popen([*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peaks = {"driver": 0, "all": 0}
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(driver.pid, peaks, over))
    watcher.start()
    answer, _ = driver.communicate()
    over.set()
    watcher.join()
    report = json.loads(answer)
    subprocess.run([*CLI, "verify", str(out)], check=True, stdout=subprocess.DEVNULL)
    return {
        "images": num_images,
        "images_per_s": report["this_run"]["images_per_s"],
        "seconds": report["seconds"],
        "seconds_by_phase": report["seconds_by_phase"],
        "driver_mib": peaks["driver"] / 2**20,
        "all_mib": peaks["all"] / 2**20,
    }


def watch(pid: int, peaks: dict[str, int], over: threading.Event) -> None:
    """Keep the largest resident memory of the process, and the largest sum of PSS over it and its descendants."""
    while not over.wait(SAMPLE_S):
        try:
            driver = psutil.Process(pid)
            family = [driver, *driver.children(recursive=True)]
            peaks["driver"] = max(peaks["driver"], driver.memory_info().rss)
            peaks["all"] = max(peaks["all"], sum(_pss(process) for process in family))
        except psutil.NoSuchProcess:
            continue


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def draw(folder: Path, num_images: int) -> None:
    """64 different images under as many names as asked for."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    originals = []
    for number in range(min(64, num_images)):
        image = Image.new("RGB", (160, 120), (number * 4, 128, 255 - number * 4))
        ImageDraw.Draw(image).ellipse((20, 10, 30 + number, 100), fill="gold")
        originals.append(folder / f"{number:06d}.jpg")
        image.save(originals[-1], quality=85)
    for number in range(64, num_images):
        os.link(originals[number % 64], folder / f"{number:06d}.jpg")


if __name__ == "__main__":
    main()

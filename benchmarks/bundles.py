"""What a bundle costs the driver: the same tiny images in few bundles and in many, and the difference.

    python -m benchmarks.bundles [--bundles 100 1100] [--rounds 3] [--json FILE]

Bundles of two images, so that workers have next to nothing to do. Of both runs are taken: the driver's own CPU time
(not Ray's daemons', not the workers'), the seconds of tagging, and the driver's largest resident memory. A bundle costs
what the many take more, divided by how many more they are; 1,024 divided by its seconds is the images/s that one driver
can keep up with in bundles of 1,024. Memory wants thousands more: a thousand of them are 10 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import psutil
import yaml

from benchmarks.line import CLI, draw

BUNDLE = 2
USUAL = 1024


def main() -> None:
    """Run few and many in turn, and print what a bundle costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=int, nargs=2, default=[100, 1100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    few, many = asked.bundles
    cpu_ms: list[float] = []
    wall_ms: list[float] = []
    kib: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bundles-") as name:
        for _ in range(asked.rounds):
            of_few, of_many = (measure(Path(name), count) for count in (few, many))
            cpu, wall, memory = ((more - less) / (many - few) for less, more in zip(of_few, of_many, strict=True))
            cpu_ms.append(1000 * cpu)
            wall_ms.append(1000 * wall)
            kib.append(memory / 1024)
            print(
                f"a bundle more: {cpu_ms[-1]:.1f} ms of the driver's CPU, {wall_ms[-1]:.1f} ms of tagging, "
                f"{kib[-1]:.1f} KiB of the driver's memory",
                flush=True,
            )
    cpu, wall = median(cpu_ms), median(wall_ms)
    rate = 1000 * USUAL / max(cpu, wall)
    print(f"median {cpu:.1f} ms and {wall:.1f} ms: with bundles of {USUAL:,} enough for {rate:,.0f} images/s")
    print(f"median {median(kib):.1f} KiB a bundle")
    if asked.json:
        asked.json.write_text(json.dumps({"cpu_ms": cpu_ms, "wall_ms": wall_ms, "kib": kib}, indent=1))


def measure(folder: Path, num_bundles: int) -> tuple[float, float, float]:
    """The driver's CPU seconds, the seconds of tagging and the driver's bytes, of a run of so many bundles."""
    images = folder / f"images-{num_bundles}"
    draw(images, BUNDLE * num_bundles)
    out = tempfile.mkdtemp(dir=folder)
    job = folder / "job.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(images)]},
        "models": [{"kind": "constant"}],
        "output": {"uri": f"{out}/tags"},
        "compute": {"bundle_size": BUNDLE},
    }
    job.write_text(yaml.safe_dump(content))
    words = [*CLI, "run", str(job), "--json"]
    driver = psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    cpu, memory = 0.0, 0
    while driver.poll() is None:
        try:
            times = driver.cpu_times()
            cpu = max(cpu, times.user + times.system)
            memory = max(memory, driver.memory_info().rss)
            driver.wait(timeout=0.1)
        except (psutil.Error, subprocess.TimeoutExpired):
            continue
    report = json.loads(driver.stdout.read())
    return cpu, report["this_run"]["tagging_s"], memory


if __name__ == "__main__":
    main()

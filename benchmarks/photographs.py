"""The pipeline with `constant` on real photographs, compared with decoding the same files alone.

    python -m benchmarks.photographs [--images 10000] [--rounds 3] [--data ../shared/data] [--json FILE]

Three things are measured in turn. Every photograph is decoded from memory, in as many threads as there are cores: in
full by libjpeg-turbo (torchvision.io), and as the pipeline does it (to an eighth, because `constant` needs no pixels).
Then `batchtag run` tags the same files on a local disk with the `constant` model. The ratios show what reading,
hashing, tables and Ray cost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from batchtag.config.model import ConstantSpec
from batchtag.decoding.decoder import DecodeRules
from batchtag.models import prepare
from batchtag.system import available_cores
from benchmarks.decoding import decode_readable
from benchmarks.line import CLI
from benchmarks.speed import images
from benchmarks.speed.__main__ import CACHE
from benchmarks.speed.limits import decode_full

_READ_AHEAD = 256
"""Files that are read into memory before they are decoded."""


def main() -> None:
    """Measure in turn, and print the ratios of the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=images.DATA)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    served = images.prepare_images(CACHE, {"ordinary"}, data=args.data)
    bucket = served / images.BUCKET
    files = [bucket / name for name in images.list_keys(served, "ordinary", num_images=args.images)]
    rules, resolutions = DecodeRules(), (prepare(ConstantSpec()).input_resolution,)
    rates: dict[str, list[float]] = {"decoded in full": [], "decoded scaled": [], "pipeline": []}
    with tempfile.TemporaryDirectory(prefix="photographs-", dir=CACHE) as name:
        for number, path in zip(range(args.images), itertools.cycle(files), strict=False):
            os.link(path, Path(name) / f"{number:06d}.jpg")
        for _ in range(args.rounds):
            rates["decoded in full"].append(measure_decoding(files, decode_full))
            rates["decoded scaled"].append(
                measure_decoding(files, partial(decode_readable, rules=rules, resolutions=resolutions))
            )
            rates["pipeline"].append(measure_tagging(Path(name), args.images))
            print(", ".join(f"{what} {values[-1]:,.0f}" for what, values in rates.items()), "images/s", flush=True)
    pipeline = median(rates["pipeline"])
    shares = {what: pipeline / median(values) for what, values in rates.items() if what != "pipeline"}
    shares_text = ", ".join(f"{share:.2f} of {what}" for what, share in shares.items())
    print(f"the pipeline, {pipeline:,.0f} images/s: {shares_text}")
    if args.json:
        args.json.write_text(json.dumps(rates, indent=1))


def measure_decoding(files: list[Path], decode: Callable[[bytes], object]) -> float:
    """Return images/s of decoding from memory on all cores. The time of reading files is not counted."""
    seconds = 0.0
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(files), _READ_AHEAD):
            blobs = [path.read_bytes() for path in files[start : start + _READ_AHEAD]]
            started_at = time.perf_counter()
            for future in [pool.submit(decode, blob) for blob in blobs]:
                future.result()
            seconds += time.perf_counter() - started_at
    return len(files) / seconds


def measure_tagging(folder: Path, num_images: int) -> float:
    """Return images/s while tagging, from the run's record."""
    with tempfile.TemporaryDirectory(prefix="photographs-") as out:
        command = [*CLI, "run", str(folder), "--out", f"{out}/tags", "--classifier", "constant"]
        completed = subprocess.run(
            [*command, "--limit", str(num_images), "--json"],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    return num_images / float(json.loads(completed.stdout)["this_run"]["tagging_s"])


if __name__ == "__main__":
    main()

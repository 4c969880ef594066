"""The line with `constant` on real photographs, beside the decoding of the same files alone.

    python -m benchmarks.photographs [--images 10000] [--rounds 3] [--data ../shared/data] [--json FILE]

In turn: every photograph decoded from memory in as many threads as there are cores, whole by libjpeg-turbo
(torchvision.io) and as the line does it (to an eighth, for `constant` looks at nothing); and `batchtag run` with the
`constant` model on the same files on a local disk. The ratios are what reading, hashing, writing tables and Ray leave.
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
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.models import prepare
from batchtag.system import available_cores
from benchmarks.line import CLI
from benchmarks.speed import images
from benchmarks.speed.__main__ import CACHE
from benchmarks.speed.limits import pixels

_AT_ONCE = 256


def main() -> None:
    """Both in turn, and the ratio of their medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=images.DATA)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    served = images.prepare(CACHE, {"ordinary"}, data=asked.data)
    bucket = served / images.BUCKET
    files = [bucket / name for name in images.names(served, "ordinary", num_images=asked.images)]
    rules, input_resolutions = DecodeRules(), (prepare(ConstantSpec()).input_resolution,)
    rates: dict[str, list[float]] = {"whole": [], "as the line": [], "line": []}
    with tempfile.TemporaryDirectory(prefix="photographs-", dir=CACHE) as name:
        for number, path in zip(range(asked.images), itertools.cycle(files), strict=False):
            os.link(path, Path(name) / f"{number:06d}.jpg")
        for _ in range(asked.rounds):
            rates["whole"].append(decoded_per_second(files, pixels))
            rates["as the line"].append(
                decoded_per_second(files, partial(decode, rules=rules, input_resolutions=input_resolutions))
            )
            rates["line"].append(tagged_per_second(Path(name), asked.images))
            print(", ".join(f"{what} {found[-1]:,.0f}" for what, found in rates.items()), "images/s", flush=True)
    line = median(rates["line"])
    shares = {what: line / median(found) for what, found in rates.items() if what != "line"}
    print(f"the line, {line:,.0f} images/s:", ", ".join(f"{share:.2f} of {what}" for what, share in shares.items()))
    if asked.json:
        asked.json.write_text(json.dumps(rates, indent=1))


def decoded_per_second(files: list[Path], decoder: Callable[[bytes], object]) -> float:
    """From memory, a few hundred at a time; reading them is not counted."""
    seconds = 0.0
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(files), _AT_ONCE):
            blobs = [path.read_bytes() for path in files[start : start + _AT_ONCE]]
            began = time.perf_counter()
            for future in [pool.submit(decoder, blob) for blob in blobs]:
                future.result()
            seconds += time.perf_counter() - began
    return len(files) / seconds


def tagged_per_second(folder: Path, num_images: int) -> float:
    """While tagging, as the run's own record says."""
    with tempfile.TemporaryDirectory(prefix="photographs-") as out:
        words = [*CLI, "run", str(folder), "--out", f"{out}/tags", "--classifier", "constant"]
        ended = subprocess.run(
            [*words, "--limit", str(num_images), "--json"],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    return num_images / float(json.loads(ended.stdout)["this_run"]["tagging_s"])


if __name__ == "__main__":
    main()

"""On a GPU: torchvision as everybody calls it, the same under AMP, and ours, beside what the device could do at best.

    python benchmarks/gpu.py [--images FOLDER] [--weights FOLDER] [--rounds 5] [--json FILE]
    python benchmarks/gpu.py --device cpu --quick          tries every step in a minute; its times mean nothing

Stands alone: torch, torchvision, numpy and pillow do; Ray, pydantic, pyarrow and an installed batchtag are not
needed. Answers are compared before times: with seeded weights (the default, nothing is downloaded) agreement in 16 bits
is lower than with published ones, because random networks are chaotic, so AMP's own agreement stands beside ours.
Contenders run in turn and medians count. Without a GPU the table says "not measured".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

if not __package__:  # run as a file: Python looks beside it, and not in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torchvision

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.models.acceleration.half_precision import number_type
from batchtag.models.acceleration.runtime import Precision, Runtime
from benchmarks.on_gpu import limits
from benchmarks.on_gpu.images import jpegs
from benchmarks.on_gpu.ways import (
    PLAIN_BATCHES,
    Found,
    Subject,
    agreement,
    look_our_way,
    ours,
    subject,
    torchvision_way,
)

BUILDERS = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "resnet50",
)
CLASSIFIERS = ("resnet50",)
COMPARED = 48
"""Images whose answers are compared."""
NOT_MEASURED = "not measured"
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured. `sizes` are the batches of a network's own graph."""

    num_images: int
    rounds: int
    seconds: float
    matrix_side: int
    sizes: tuple[int, ...]
    builders: tuple[str, ...]


FULL = Scale(
    num_images=128, rounds=5, seconds=2.0, matrix_side=8192, sizes=(4, 8, 16, 32, 64, 128, 256), builders=BUILDERS
)
QUICK = Scale(num_images=2, rounds=1, seconds=0.01, matrix_side=128, sizes=(1,), builders=BUILDERS[2:3])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network. Rates in images/s; shares of 1; `*_agrees` with torchvision's plain call, answers of `exact` are
    ours in float32.
    """

    builder: str
    plain: float
    amp: float
    ours: float
    exact_agrees: float
    amp_agrees: float
    ours_agrees: float
    gflop: float
    arithmetic_limit: float
    own_graph: float
    own_graph_batch: int
    busy: float


def main() -> None:
    """Measure, and print one table."""
    warnings.simplefilter("ignore", DeprecationWarning)
    asked = _arguments()
    base = QUICK if asked.quick else FULL
    scale = replace(
        base,
        num_images=asked.images or base.num_images,
        rounds=asked.rounds or base.rounds,
        builders=tuple(asked.only or base.builders),
    )
    chosen = ("cuda" if torch.cuda.is_available() else "") if asked.device == "auto" else asked.device
    if not chosen:
        print("\n".join(table([], builders=scale.builders)))
        print("There is no GPU here (torch.cuda.is_available() is false); --device cpu --quick tries the steps.")
        _write(asked.json, {"device": NOT_MEASURED, "rows": []})
        return
    dtype = number_type(Runtime(device=chosen, precision=asked.precision))
    blobs, origin = jpegs(asked.images, num_images=scale.num_images)
    facts = _facts(chosen, dtype, origin=origin, weights=asked.weights, scale=scale)
    for line in facts["lines"]:
        print(line, flush=True)
    rate = limits.matrix_product(chosen, torch.bfloat16, side=scale.matrix_side, seconds=scale.seconds / 4)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number:03d}.jpg" for number in range(min(len(blobs), 96))]
        for file, blob in zip(files, blobs, strict=False):
            file.write_bytes(blob)
        for builder in scale.builders:
            one = subject(builder, files, weights=asked.weights)
            rows.append(
                _measured(one, blobs, device=chosen, asked=asked.precision, dtype=dtype, rate=rate, scale=scale)
            )
            print(f"# {builder} done", file=sys.stderr, flush=True)
    print("\n".join(table(rows, builders=scale.builders)))
    if chosen.startswith("cuda"):
        print("\n".join(verdicts(rows)))
    on_cpu = limits.decode_on_cpu(blobs, threads=asked.threads, seconds=scale.seconds)
    on_gpu = limits.decode_on_gpu(blobs, device=chosen, seconds=scale.seconds) if chosen.startswith("cuda") else 0.0
    print(f"bf16 matrix product of {scale.matrix_side}: {rate / 1e12:.3g} TFLOP/s, which the arithmetic limit goes by")
    print(f"decoding whole images: {on_cpu:,.0f}/s on {asked.threads} threads; {_number(on_gpu)}/s by nvJPEG")
    content = {
        **{name: value for name, value in facts.items() if name != "lines"},
        "matrix_product_flop_per_s": rate,
        "decode_cpu_per_s": on_cpu,
        "decode_threads": asked.threads,
        "decode_nvjpeg_per_s": on_gpu or NOT_MEASURED,
        "rows": [asdict(row) for row in rows],
    }
    _write(asked.json, content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    photos = _ROOT.parent / "shared/data/photos"
    parser.add_argument("--images", type=Path, default=photos, help="a folder of JPEGs; drawn ones if it has none")
    parser.add_argument("--weights", type=Path, help="a folder of published files; without, seeded weights")
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto: cuda where there is one")
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16", help="ours computes in")
    parser.add_argument("--only", nargs="+", choices=BUILDERS, help="only these networks")
    parser.add_argument("--images", type=int, help="how many images a round has")
    parser.add_argument("--rounds", type=int, help="how often each contender runs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the decoder on CPUs")
    parser.add_argument("--quick", action="store_true", help="one small network and two images")
    parser.add_argument("--json", type=Path, help="the same figures as a file")
    return parser.parse_args()


def _facts(device: str, dtype: torch.dtype, *, origin: str, weights: Path | None, scale: Scale) -> dict[str, Any]:
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    kind = "published" if weights else "seeded"
    lines = [
        f"{name}; {versions}; ours in {dtype}; {kind} weights",
        f"{scale.num_images} images a round from {origin}, uint8 in memory; medians of {scale.rounds} in turn",
    ]
    return {
        "device": name,
        "versions": versions,
        "dtype": str(dtype),
        "weights": kind,
        "images": origin,
        "lines": lines,
    }


def _measured(
    one: Subject,
    blobs: Sequence[bytes],
    *,
    device: str,
    asked: Precision,
    dtype: torch.dtype,
    rate: float,
    scale: Scale,
) -> Row:
    """First what each says, then how long each takes."""
    distinct = {blob: decode(blob, rules=DecodeRules()).pixels for blob in dict.fromkeys(blobs)}
    images = [distinct[blob] for blob in blobs]
    image = torch.from_numpy(np.array(images[0])).permute(2, 0, 1)
    gflop = limits.flops(one, image, device=device) / 1e9
    graph, batch = limits.own_graph(
        one, image, device=device, dtype=dtype, batch_sizes=scale.sizes, seconds=scale.seconds / 4
    )
    model = ours(one, device=device, precision=asked)
    network = one.network.to(device)
    amp = torch.bfloat16 if dtype is torch.float32 else dtype
    calls: dict[str, Callable[[Sequence[Any]], list[Found]]] = {
        "ours": lambda some: look_our_way(model, some),
        **{
            f"{name} {size}": torchvision_way(one, network, device=device, batch_size=size, amp=numbers)
            for size in PLAIN_BATCHES
            for name, numbers in (("plain", None), ("amp", amp))
        },
    }
    few = list(distinct.values())[:COMPARED]
    said = {name: call(few) for name, call in calls.items()}
    reference = said["plain 1"]
    exact = look_our_way(ours(one, device=device, precision="float32"), few)
    seconds = _in_turn({name: lambda call=call: call(images) for name, call in calls.items()}, device, scale.rounds)  # type: ignore[misc]
    rates = {name: len(images) / took for name, took in seconds.items()}
    busy = limits.busy_share(lambda: look_our_way(model, images), device=device)
    one.network.to("cpu")
    return Row(
        builder=one.builder,
        plain=max(rates[f"plain {size}"] for size in PLAIN_BATCHES),
        amp=max(rates[f"amp {size}"] for size in PLAIN_BATCHES),
        ours=rates["ours"],
        exact_agrees=agreement(reference, exact),
        amp_agrees=agreement(reference, said["amp 1"]),
        ours_agrees=agreement(reference, said["ours"]),
        gflop=gflop,
        arithmetic_limit=rate / (gflop * 1e9),
        own_graph=graph,
        own_graph_batch=batch,
        busy=busy,
    )


def _in_turn(calls: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """The median seconds of each; all were warmed up when their answers were compared."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            limits.wait(device)
            began = time.perf_counter()
            call()
            limits.wait(device)
            took[name].append(time.perf_counter() - began)
    return {name: statistics.median(some) for name, some in took.items()}


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("torchvision", lambda row: _number(row.plain)),
    ("under AMP", lambda row: _number(row.amp)),
    ("ours", lambda row: _number(row.ours)),
    ("x plain", lambda row: f"{row.ours / row.plain:.2f}"),
    ("x AMP", lambda row: f"{row.ours / row.amp:.2f}"),
    ("own graph", lambda row: f"{_number(row.own_graph)} ({row.own_graph_batch})"),
    ("ours/own", lambda row: f"{row.ours / row.own_graph:.2f}" if row.own_graph else "does not fit"),
    ("arithmetic", lambda row: _number(row.arithmetic_limit)),
    ("GPU busy", lambda row: f"{row.busy:.0%}"),
    ("fp32 agrees", lambda row: f"{row.exact_agrees:.1%}"),
    ("AMP agrees", lambda row: f"{row.amp_agrees:.1%}"),
    ("ours agrees", lambda row: f"{row.ours_agrees:.1%}"),
)


def table(rows: Sequence[Row], *, builders: Sequence[str]) -> list[str]:
    """The lines of the table: images/s of each way, shares, and what was agreed; "not measured" where there is no row.

    `own graph` is the bare arithmetic at its best batch size (in brackets), `arithmetic` the FLOPs of an image at the
    rate of the matrix product, `fp32 agrees` is ours in float32 against torchvision's plain call.
    """
    found = {row.builder: row for row in rows}
    cells = [["images/s", *(name for name, _ in _COLUMNS)]]
    for builder in builders:
        row = found.get(builder)
        cells.append([builder, *(said(row) if row else NOT_MEASURED for _, said in _COLUMNS)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A line for each bar: detection three times torchvision's plain call and 1.5 times its AMP call, and a classifier
    at 0.6 of its own graph.
    """
    lines = []
    for row in rows:
        ratios = [
            (row.ours / row.plain, 3.0, "x torchvision's plain call"),
            (row.ours / row.amp, 1.5, "x its AMP call"),
        ]
        if row.builder in CLASSIFIERS:
            ratios = [(row.ours / row.own_graph if row.own_graph else 0.0, 0.6, "of its own graph")]
        for reached, bar, what in ratios:
            if not reached:
                lines.append(f"{NOT_MEASURED}: {row.builder} {what}, bar {bar}")
                continue
            lines.append(f"{'reached' if reached >= bar else 'missed'}: {row.builder} {reached:.2f} {what}, bar {bar}")
    return lines


def _number(rate: float) -> str:
    if not rate:
        return NOT_MEASURED
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""On a GPU: torchvision as it is usually called, the same under AMP, and batchtag, compared with the device's limits.

    python benchmarks/gpu.py [--photos FOLDER] [--weights FOLDER] [--rounds 5] [--json FILE]
    python benchmarks/gpu.py --device cpu --quick          tries every step in a minute; its times mean nothing

Needs torch, torchvision, numpy and pillow; Ray, pydantic, pyarrow and an installed batchtag are not needed. Answers are
compared before times. With seeded weights (the default; nothing is downloaded) agreement in 16 bits is lower than with
published ones, because random networks are chaotic, so the table shows AMP's agreement too. Contenders run in turn, and
medians count. Without a GPU the table has "not measured".
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
from functools import partial
from pathlib import Path
from typing import Any, get_args

if not __package__:  # run as a file: Python searches its folder, and not the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import torchvision

from batchtag.decoding.decoder import DecodeRules
from batchtag.models.acceleration.half_precision import resolve_dtype
from batchtag.models.acceleration.runtime import Precision, Runtime
from benchmarks.decoding import decode_readable
from benchmarks.on_gpu import limits
from benchmarks.on_gpu.images import read_or_draw_jpegs
from benchmarks.on_gpu.methods import (
    PLAIN_BATCHES,
    Rows,
    Subject,
    compute_agreement,
    make_batchtag_model,
    make_subject,
    make_torchvision_call,
    predict_with_batchtag,
)

BUILDERS = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "resnet50",
)
CLASSIFIERS = ("resnet50",)
NUM_COMPARED = 48
"""Images whose answers are compared."""
NOT_MEASURED = "not measured"
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of the benchmark. `sizes` are the batch sizes of a network's own graph."""

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
    """The results of one network. Rates are in images/s, shares from 0 to 1.

    `*_agrees` is the agreement with torchvision's plain call; `exact` is batchtag in float32.
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
    """Measure, and print the table."""
    warnings.simplefilter("ignore", DeprecationWarning)
    args = _parse_arguments()
    base = QUICK if args.quick else FULL
    scale = replace(
        base,
        num_images=args.images or base.num_images,
        rounds=args.rounds or base.rounds,
        builders=tuple(args.only or base.builders),
    )
    device = ("cuda" if torch.cuda.is_available() else "") if args.device == "auto" else args.device
    if not device:
        print("\n".join(format_table([], builders=scale.builders)))
        print("This machine has no GPU (torch.cuda.is_available() is false); --device cpu --quick tries every step.")
        _write_json(args.json, {"device": NOT_MEASURED, "rows": []})
        return
    dtype = resolve_dtype(Runtime(device=device, precision=args.precision))
    blobs, origin = read_or_draw_jpegs(args.photos, num_images=scale.num_images)
    description = _describe(device, dtype, origin=origin, weights=args.weights, scale=scale)
    for line in description["lines"]:
        print(line, flush=True)
    rate = limits.measure_matrix_product(device, torch.bfloat16, side=scale.matrix_side, seconds=scale.seconds / 4)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number:03d}.jpg" for number in range(min(len(blobs), 96))]
        for file, blob in zip(files, blobs, strict=False):
            file.write_bytes(blob)
        for builder in scale.builders:
            subject = make_subject(builder, files, weights=args.weights)
            rows.append(
                _measure(subject, blobs, device=device, precision=args.precision, dtype=dtype, rate=rate, scale=scale)
            )
            print(f"# {builder} done", file=sys.stderr, flush=True)
    print("\n".join(format_table(rows, builders=scale.builders)))
    if device.startswith("cuda"):
        print("\n".join(list_verdicts(rows)))
    on_cpu = limits.measure_cpu_decoding(blobs, threads=args.threads, seconds=scale.seconds)
    on_gpu = (
        limits.measure_gpu_decoding(blobs, device=device, seconds=scale.seconds) if device.startswith("cuda") else 0.0
    )
    print(f"bf16 matrix product of {scale.matrix_side}: {rate / 1e12:.3g} TFLOP/s, the basis of the arithmetic limit")
    print(f"decoding in full: {on_cpu:,.0f}/s on {args.threads} threads; {_format_rate(on_gpu)}/s by nvJPEG")
    content = {
        **{name: value for name, value in description.items() if name != "lines"},
        "matrix_product_flop_per_s": rate,
        "decode_cpu_per_s": on_cpu,
        "decode_threads": args.threads,
        "decode_nvjpeg_per_s": on_gpu or NOT_MEASURED,
        "rows": [asdict(row) for row in rows],
    }
    _write_json(args.json, content)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    photos = _ROOT.parent / "shared/data/photos"
    parser.add_argument(
        "--photos", "--pictures", type=Path, default=photos, help="folder of JPEGs; drawn ones if it has none"
    )
    parser.add_argument("--weights", type=Path, help="folder of published weights; seeded weights without it")
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto: cuda if the machine has it")
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16", help="precision of batchtag")
    parser.add_argument("--only", nargs="+", choices=BUILDERS, help="only these networks")
    parser.add_argument("--images", type=int, help="images in a round")
    parser.add_argument("--rounds", type=int, help="rounds of every contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the decoder on CPUs")
    parser.add_argument("--quick", action="store_true", help="one small network and two images")
    parser.add_argument("--json", type=Path, help="file for the same numbers")
    return parser.parse_args()


def _describe(device: str, dtype: torch.dtype, *, origin: str, weights: Path | None, scale: Scale) -> dict[str, Any]:
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    kind = "published" if weights else "seeded"
    lines = [
        f"{name}; {versions}; batchtag in {dtype}; {kind} weights",
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


def _measure(
    subject: Subject,
    blobs: Sequence[bytes],
    *,
    device: str,
    precision: Precision,
    dtype: torch.dtype,
    rate: float,
    scale: Scale,
) -> Row:
    """Compare the answers of all contenders, then measure their times."""
    distinct = {blob: decode_readable(blob, rules=DecodeRules()).pixels for blob in dict.fromkeys(blobs)}
    images = [distinct[blob] for blob in blobs]
    image = torch.from_numpy(np.array(images[0])).permute(2, 0, 1)
    gflop = limits.count_flops(subject, image, device=device) / 1e9
    graph, batch = limits.measure_own_graph(
        subject, image, device=device, dtype=dtype, batch_sizes=scale.sizes, seconds=scale.seconds / 4
    )
    model = make_batchtag_model(subject, device=device, precision=precision)
    network = subject.network.to(device)
    amp = torch.bfloat16 if dtype is torch.float32 else dtype
    calls: dict[str, Callable[[Sequence[Any]], list[Rows]]] = {
        "ours": lambda some: predict_with_batchtag(model, some),
        **{
            f"{name} {size}": make_torchvision_call(subject, network, device=device, batch_size=size, amp=dtype_of_call)
            for size in PLAIN_BATCHES
            for name, dtype_of_call in (("plain", None), ("amp", amp))
        },
    }
    compared = list(distinct.values())[:NUM_COMPARED]
    answers = {name: call(compared) for name, call in calls.items()}
    reference = answers["plain 1"]
    exact_model = make_batchtag_model(subject, device=device, precision="float32")
    exact = predict_with_batchtag(exact_model, compared)
    seconds = _measure_in_turn({name: partial(call, images) for name, call in calls.items()}, device, scale.rounds)
    rates = {name: len(images) / call_s for name, call_s in seconds.items()}
    busy = limits.measure_busy_share(lambda: predict_with_batchtag(model, images), device=device)
    subject.network.to("cpu")
    return Row(
        builder=subject.builder,
        plain=max(rates[f"plain {size}"] for size in PLAIN_BATCHES),
        amp=max(rates[f"amp {size}"] for size in PLAIN_BATCHES),
        ours=rates["ours"],
        exact_agrees=compute_agreement(reference, exact),
        amp_agrees=compute_agreement(reference, answers["amp 1"]),
        ours_agrees=compute_agreement(reference, answers["ours"]),
        gflop=gflop,
        arithmetic_limit=rate / (gflop * 1e9),
        own_graph=graph,
        own_graph_batch=batch,
        busy=busy,
    )


def _measure_in_turn(calls: dict[str, Callable[[], object]], device: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of each call. All are warm, because their answers were compared before."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            limits.wait_for_device(device)
            started_at = time.perf_counter()
            call()
            limits.wait_for_device(device)
            seconds[name].append(time.perf_counter() - started_at)
    return {name: statistics.median(values) for name, values in seconds.items()}


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("torchvision", lambda row: _format_rate(row.plain)),
    ("under AMP", lambda row: _format_rate(row.amp)),
    ("batchtag", lambda row: _format_rate(row.ours)),
    ("x plain", lambda row: f"{row.ours / row.plain:.2f}"),
    ("x AMP", lambda row: f"{row.ours / row.amp:.2f}"),
    ("own graph", lambda row: f"{_format_rate(row.own_graph)} ({row.own_graph_batch})"),
    ("of own graph", lambda row: f"{row.ours / row.own_graph:.2f}" if row.own_graph else "does not fit"),
    ("arithmetic", lambda row: _format_rate(row.arithmetic_limit)),
    ("GPU busy", lambda row: f"{row.busy:.0%}"),
    ("fp32 agrees", lambda row: f"{row.exact_agrees:.1%}"),
    ("AMP agrees", lambda row: f"{row.amp_agrees:.1%}"),
    ("batchtag agrees", lambda row: f"{row.ours_agrees:.1%}"),
)


def format_table(rows: Sequence[Row], *, builders: Sequence[str]) -> list[str]:
    """Return the lines of the table: images/s of each method, shares, and agreement; "not measured" without a row.

    `own graph` is the network's arithmetic alone at its best batch size (in brackets), `arithmetic` the FLOPs of an
    image at the rate of the matrix product, `fp32 agrees` is batchtag in float32 compared with torchvision's plain
    call.
    """
    rows_by_builder = {row.builder: row for row in rows}
    cells = [["images/s", *(name for name, _ in _COLUMNS)]]
    for builder in builders:
        row = rows_by_builder.get(builder)
        cells.append([builder, *(format_cell(row) if row else NOT_MEASURED for _, format_cell in _COLUMNS)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]


def list_verdicts(rows: Sequence[Row]) -> list[str]:
    """Return a line for each bar.

    A detector must reach three times torchvision's plain call and 1.5 times its AMP call, a classifier 0.6 of its own
    graph.
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


def _format_rate(rate: float) -> str:
    if not rate:
        return NOT_MEASURED
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The command of the benchmark: what to measure, and where the results go."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from batchtag.system import available_cores
from benchmarks.speed import daft_environment, images, report, weights
from benchmarks.speed.contenders import PEERS
from benchmarks.speed.rounds import (
    OUT_OF_TIME,
    BenchmarkSetup,
    Row,
    add_single_runs,
    list_missed_bars,
    measure_workload,
    tune_peers,
)
from benchmarks.speed.s3server import run_server
from benchmarks.speed.workloads import FULL, QUICK, WORKLOADS, Scale, Settings, Workload

CACHE = Path(tempfile.gettempdir()) / "batchtag-bench"
_TUNING_FILE = "tuning.json"
_LIMIT_S = 18 * 60.0
"""Seconds after which no peer that runs once is started, so that the benchmark ends within twenty minutes."""


def main() -> None:
    """Measure, and print the table; exit with 1 if a contender failed, or batchtag gave other tags."""
    args = _parse_arguments()
    console = Console(stderr=True)
    started_at = time.monotonic()
    scale = _choose_scale(args)
    served = images.prepare_images(args.cache, {workload.images for workload in scale.workloads}, data=args.data)
    models = _prepare_models(args.cache, scale.workloads, given=dict(args.checkpoint), served=served)
    needs_daft = any("daft" in (*workload.peers, *workload.once) for workload in scale.workloads)
    folder = args.cache / "runs"
    with run_server(served) as endpoint_url:
        setup = BenchmarkSetup(
            endpoint_url=endpoint_url,
            served=served,
            folder=folder,
            models=models,
            cores=available_cores(),
            daft=daft_environment.find_or_make_python(args.cache) if needs_daft else ("", "not requested"),
            tuned=_read_tuning(args.cache),
            ends_at=started_at + _LIMIT_S,
            on_progress=lambda line: console.print(f"{time.monotonic() - started_at:5.0f} s  {line}", highlight=False),
        )
        if args.tune:
            tuned = dict(setup.tuned)
            for workload in scale.workloads:
                tuned |= tune_peers(workload, scale=scale, setup=setup)
            _write_tuning(args.cache, tuned)
            return
        rows: list[Row] = []
        for workload in scale.workloads:
            rows.append(measure_workload(workload, scale=scale, setup=setup, before=rows))
            _write_results(rows, args.out, setup=setup)
        for number, row in enumerate(rows):
            rows[number] = add_single_runs(row, setup=setup)
            _write_results(rows, args.out, setup=setup)
    shutil.rmtree(folder, ignore_errors=True)
    Console(width=150).print(report.make_table(rows))
    for line in list_missed_bars(rows):
        print(f"missed: {line}")
    print(f"{time.monotonic() - started_at:.0f} s; {args.out}/speed.json and speed.svg")
    results = [result for row in rows for result in row.results]
    has_same_tags = all(row.ours.is_comparable for row in rows)
    sys.exit(0 if has_same_tags and all(result.problem in ("", OUT_OF_TIME) for result in results) else 1)


def _write_results(rows: Sequence[Row], out: Path, *, setup: BenchmarkSetup) -> None:
    """Write JSON and chart. Called after every workload, so that a later failure loses nothing."""
    distinct: dict[str, int] = {
        row.workload.images: images.count_distinct(row.workload.images, setup.served) for row in rows
    }
    content = report.to_json(rows, cores=setup.cores, distinct=distinct, daft=daft_environment.VERSION)
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(content, indent=1) + "\n")
    report.draw_chart(rows, out / "speed.svg")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two workloads, one round: within 3 minutes")
    parser.add_argument(
        "--only", nargs="+", choices=[workload.name for workload in WORKLOADS], help="only these workloads"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=list(PEERS), help="these peers for every workload; plain always takes part"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every contender")
    parser.add_argument("--seconds", type=float, help="seconds of tagging to aim at for each run")
    parser.add_argument("--tune", action="store_true", help="find the peers' best settings, and keep them in the cache")
    parser.add_argument("--checkpoint", nargs=2, action="append", default=[], metavar=("BUILDER", "FOLDER"))
    parser.add_argument("--data", type=Path, default=images.DATA, help="folder of photos/ and classification_train/")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for images, weights and Daft, made once")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for speed.json and speed.svg")
    return parser.parse_args()


def _choose_scale(args: argparse.Namespace) -> Scale:
    scale = QUICK if args.quick else FULL
    if args.only:
        scale = replace(scale, workloads=tuple(workload for workload in WORKLOADS if workload.name in args.only))
    if args.peers:
        peers = tuple(peer for peer in PEERS if peer in {"plain", *args.peers})
        workloads = (replace(workload, peers=_possible_peers(workload, peers), once=()) for workload in scale.workloads)
        scale = replace(scale, workloads=tuple(workloads))
    if args.rounds:
        scale = replace(scale, rounds=args.rounds)
    return replace(scale, seconds=args.seconds) if args.seconds else scale


def _possible_peers(workload: Workload, peers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the peers that can do a workload: only detectors take a list of images of any size."""
    return tuple(peer for peer in peers if peer != "list" or not workload.classifiers)


def _prepare_models(
    cache: Path, workloads: tuple[Workload, ...], *, given: dict[str, str], served: Path
) -> dict[str, Path]:
    """Return a checkpoint folder for each builder: the given one, or a seeded one."""
    builders = sorted({builder for workload in workloads for builder in workload.builders})
    photographs = sorted((cache / "originals" / "ordinary").iterdir()) if served.is_dir() else []
    return {
        builder: Path(given[builder]).absolute()
        if builder in given
        else weights.make_checkpoint(cache / "models" / builder, builder, images=photographs)
        for builder in builders
    }


def _read_tuning(cache: Path) -> dict[str, Settings]:
    if not (cache / _TUNING_FILE).is_file():
        return {}
    return {key: Settings(**values) for key, values in json.loads((cache / _TUNING_FILE).read_text()).items()}


def _write_tuning(cache: Path, tuned: dict[str, Settings]) -> None:
    content = {key: asdict(settings) for key, settings in tuned.items()}
    (cache / _TUNING_FILE).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()

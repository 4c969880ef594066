"""The command: what to measure, and where its answers go."""

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
from benchmarks.speed import daft_home, images, report, weights
from benchmarks.speed.contenders import PEERS
from benchmarks.speed.rounds import NO_TIME, Ground, Row, completed, measured, missed, tuned
from benchmarks.speed.s3server import serving
from benchmarks.speed.works import FULL, QUICK, WORKS, Scale, Settings, Work

CACHE = Path(tempfile.gettempdir()) / "batchtag-bench"
_TUNING = "tuning.json"
_ENDS_AFTER_S = 18 * 60.0
"""The whole is to end within twenty minutes; peers that run once, which come last, are left out from here on."""


def main() -> None:
    """Measure, and print the table; exits 1 if a contender failed, or batchtag gave other tags."""
    asked = _arguments()
    console = Console(stderr=True)
    began = time.monotonic()
    scale = _scale(asked)
    served = images.prepare(asked.cache, {work.images for work in scale.works}, data=asked.data)
    models = _models(asked.cache, scale.works, given=dict(asked.checkpoint), served=served)
    needs_daft = any("daft" in (*work.peers, *work.once) for work in scale.works)
    place = asked.cache / "runs"
    with serving(served) as endpoint_url:
        ground = Ground(
            endpoint_url=endpoint_url,
            served=served,
            place=place,
            models=models,
            cores=available_cores(),
            daft=daft_home.interpreter(asked.cache) if needs_daft else ("", "not asked for"),
            tuned=_read_tuning(asked.cache),
            ends_at=began + _ENDS_AFTER_S,
            told=lambda line: console.print(f"{time.monotonic() - began:5.0f} s  {line}", highlight=False),
        )
        if asked.tune:
            found = dict(ground.tuned)
            for work in scale.works:
                found |= tuned(work, scale=scale, ground=ground)
            _write_tuning(asked.cache, found)
            return
        rows: list[Row] = []
        for work in scale.works:
            rows.append(measured(work, scale=scale, ground=ground, before=rows))
            _write(rows, asked.out, ground=ground)
        for number, row in enumerate(rows):
            rows[number] = completed(row, ground=ground)
            _write(rows, asked.out, ground=ground)
    shutil.rmtree(place, ignore_errors=True)
    Console(width=150).print(report.table(rows))
    for line in missed(rows):
        print(f"missed: {line}")
    print(f"{time.monotonic() - began:.0f} s; {asked.out}/speed.json and speed.svg")
    results = [result for row in rows for result in row.results]
    is_well = all(row.ours.is_comparable for row in rows)
    sys.exit(0 if is_well and all(one.problem in ("", NO_TIME) for one in results) else 1)


def _write(rows: Sequence[Row], out: Path, *, ground: Ground) -> None:
    """After every work: what is measured is kept, whatever becomes of the next."""
    distinct: dict[str, int] = {row.work.images: images.num_distinct(row.work.images, ground.served) for row in rows}
    content = report.as_json(rows, cores=ground.cores, distinct=distinct, daft=daft_home.VERSION)
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(content, indent=1) + "\n")
    report.draw(rows, out / "speed.svg")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two works, one round: within 3 minutes")
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS], help="only these works")
    parser.add_argument(
        "--peers", nargs="+", choices=list(PEERS), help="these peers for every work; plain is always in"
    )
    parser.add_argument("--rounds", type=int, help="how often each runs")
    parser.add_argument("--seconds", type=float, help="of tagging aimed at for each run")
    parser.add_argument("--tune", action="store_true", help="find the peers' best settings, and keep them in the cache")
    parser.add_argument("--checkpoint", nargs=2, action="append", default=[], metavar=("BUILDER", "FOLDER"))
    parser.add_argument("--data", type=Path, default=images.DATA, help="where photos/ and classification_train/ are")
    parser.add_argument("--cache", type=Path, default=CACHE, help="images, weights, Daft: made once")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="for speed.json and speed.svg")
    return parser.parse_args()


def _scale(asked: argparse.Namespace) -> Scale:
    scale = QUICK if asked.quick else FULL
    if asked.only:
        scale = replace(scale, works=tuple(work for work in WORKS if work.name in asked.only))
    if asked.peers:
        peers = tuple(peer for peer in PEERS if peer in {"plain", *asked.peers})
        works = (replace(work, peers=_possible(work, peers), once=()) for work in scale.works)
        scale = replace(scale, works=tuple(works))
    if asked.rounds:
        scale = replace(scale, rounds=asked.rounds)
    return replace(scale, seconds=asked.seconds) if asked.seconds else scale


def _possible(work: Work, peers: tuple[str, ...]) -> tuple[str, ...]:
    """A list of images of any size is what detectors take, and no classifier."""
    return tuple(peer for peer in peers if peer != "list" or not work.classifiers)


def _models(cache: Path, works: tuple[Work, ...], *, given: dict[str, str], served: Path) -> dict[str, Path]:
    """A checkpoint folder for each builder: the one given, or a seeded one."""
    builders = sorted({builder for work in works for builder in work.builders})
    shown = sorted((cache / "originals" / "ordinary").iterdir()) if served.is_dir() else []
    return {
        builder: Path(given[builder]).absolute()
        if builder in given
        else weights.checkpoint(cache / "models" / builder, builder, images=shown)
        for builder in builders
    }


def _read_tuning(cache: Path) -> dict[str, Settings]:
    if not (cache / _TUNING).is_file():
        return {}
    return {key: Settings(**values) for key, values in json.loads((cache / _TUNING).read_text()).items()}


def _write_tuning(cache: Path, found: dict[str, Settings]) -> None:
    (cache / _TUNING).write_text(json.dumps({key: asdict(settings) for key, settings in found.items()}, indent=1))


if __name__ == "__main__":
    main()

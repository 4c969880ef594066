"""The order of the benchmark: limits first, then A B C, A B C; answers are compared, and only then times.

Peers that run once come after all rounds of all workloads, if there is time.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.speed import contenders, images
from benchmarks.speed.compare import Agreement, Answers, compute_agreement
from benchmarks.speed.contenders import OURS, ContenderRun
from benchmarks.speed.limits import Limits
from benchmarks.speed.peers.task import Task
from benchmarks.speed.workloads import Scale, Settings, Workload, list_candidates, settings_of, tuning_key

MIN_AGREEMENT = 0.99
"""Share of equal best labels, and of equal sure boxes, that makes contenders comparable. Seeded weights are less
tolerant than trained ones: OpenVINO's rounding moves four of a thousand boxes over an edge."""
OUT_OF_TIME = "out of time"
_TIMEOUT_S = 600.0
_UNUSED = Settings(batch_size=0, workers=0, threads=0)


@dataclass(frozen=True, kw_only=True)
class BenchmarkSetup:
    """What all workloads share: the server, its folder, a folder for outputs, the models by builder, and Daft's Python.

    `daft` is the Python, and "" or the reason why there is none.
    """

    endpoint_url: str
    served: Path
    folder: Path
    models: Mapping[str, Path]
    cores: int
    daft: tuple[str, str]
    tuned: Mapping[str, Settings] = field(default_factory=dict)
    ends_at: float = math.inf
    """Value of time.monotonic() after which no peer that runs once is started."""
    on_progress: Callable[[str], None] = print


@dataclass(frozen=True, kw_only=True)
class Result:
    """All runs of one contender for one workload, and the agreement of its answers with those of the reference."""

    name: str
    settings: Settings
    runs: tuple[ContenderRun, ...]
    agreement: Agreement | None
    is_once: bool = False

    @property
    def is_comparable(self) -> bool:
        """Whether it succeeded and gives the tags of the reference."""
        agreement = self.agreement
        if self.problem or agreement is None:
            return False
        return min(agreement.classes, agreement.boxes) >= MIN_AGREEMENT

    @property
    def problem(self) -> str:
        return next((run.problem for run in self.runs if run.problem), "")

    @property
    def images_per_s(self) -> float:
        """The rate while tagging: the median of the rounds, 0 if one failed."""
        return 0.0 if self.problem else median(run.images_per_s for run in self.runs)

    @property
    def whole_s(self) -> float:
        """Seconds from start to end: the median of the rounds, 0 if one failed."""
        return 0.0 if self.problem else median(run.whole_s for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload: its limits, and the results of all contenders, ours first."""

    workload: Workload
    num_images: int
    limits: Limits
    results: tuple[Result, ...]
    reference: Answers | None = None
    """The answers of the workload's reference."""

    @property
    def ours(self) -> Result:
        return self.results[0]

    @property
    def fastest_peer(self) -> Result | None:
        """The fastest comparable peer; None if none is comparable."""
        comparable = [result for result in self.results[1:] if result.is_comparable]
        return max(comparable, key=lambda result: result.images_per_s, default=None)

    @property
    def of_peer(self) -> float:
        """Our rate as a multiple of the fastest peer's; 0 if either is missing."""
        peer = self.fastest_peer
        return self.ours.images_per_s / peer.images_per_s if peer else 0.0

    @property
    def of_limit(self) -> float:
        """Our rate as a share of the limit in torch."""
        return self.ours.images_per_s / self._limit

    @property
    def of_engine(self) -> float:
        """Our rate as a share of the limit with the models in our engine."""
        return self.ours.images_per_s / self.limits.line_of_engine

    @property
    def _limit(self) -> float:
        """The limit for the bar. For several models it is the forward passes alone, because the bar is stated in
        them."""
        return 1 / self.limits.bare_s if len(self.workload.builders) > 1 else self.limits.line


def measure_workload(workload: Workload, *, scale: Scale, setup: BenchmarkSetup, before: Sequence[Row] = ()) -> Row:
    """Measure one workload in all its rounds. Peers that run once come later, except for the reference.

    `before` are the rows so far, whose limits are used again: each model is measured alone only once.
    """
    limits = _find_limits(before, workload) or _measure_limits(workload, setup)
    num_images = scale.num_images(workload, limits.line)
    names = [OURS, *(peer for peer in workload.peers if _can_run(peer, setup))]
    names += [workload.reference] * (workload.reference in workload.once)
    runs_by_name: dict[str, list[ContenderRun]] = {name: [] for name in names}
    for number in range(scale.rounds):
        for name in names:
            if name in workload.once and number:
                continue
            task = _make_task(workload, setup, num_images=num_images, settings=_choose_settings(workload, name, setup))
            runs_by_name[name].append(_run_task(name, task, setup))
            setup.on_progress(f"{workload.name}, round {number + 1}: {_describe_run(name, runs_by_name[name][-1])}")
    reference = runs_by_name[workload.reference][0].answers
    row = Row(workload=workload, num_images=num_images, limits=limits, results=(), reference=reference)
    for name, runs in runs_by_name.items():
        row = _add_result(row, name, runs, setup)
    return row


def add_single_runs(row: Row, *, setup: BenchmarkSetup) -> Row:
    """Return the row with the peers that run once, if there is time, and those that cannot run."""
    workload = row.workload
    for peer in (*workload.peers, *workload.once):
        if any(result.name == peer for result in row.results):
            continue
        if not _can_run(peer, setup):
            run = ContenderRun(problem=setup.daft[1])
        elif time.monotonic() > setup.ends_at:
            run = ContenderRun(problem=OUT_OF_TIME)
        else:
            task = _make_task(
                workload, setup, num_images=row.num_images, settings=_choose_settings(workload, peer, setup)
            )
            run = _run_task(peer, task, setup)
            setup.on_progress(f"{workload.name}, once: {_describe_run(peer, run)}")
        row = _add_result(row, peer, [run], setup)
    return row


def _add_result(row: Row, name: str, runs: Sequence[ContenderRun], setup: BenchmarkSetup) -> Row:
    result = Result(
        name=name,
        settings=_choose_settings(row.workload, name, setup),
        runs=tuple(replace(run, answers=None) for run in runs),
        agreement=_compare_answers(row.reference, runs[0].answers),
        is_once=name in row.workload.once,
    )
    return replace(row, results=(*row.results, result))


def _choose_settings(workload: Workload, name: str, setup: BenchmarkSetup) -> Settings:
    return _UNUSED if name == OURS else settings_of(workload, name, cores=setup.cores, tuned=setup.tuned)


def _can_run(peer: str, setup: BenchmarkSetup) -> bool:
    return peer != "daft" or not setup.daft[1]


def tune_peers(workload: Workload, *, scale: Scale, setup: BenchmarkSetup) -> dict[str, Settings]:
    """Return the fastest settings of each peer by their key, from one short run of every candidate."""
    num_images = scale.num_images(workload, _measure_limits(workload, setup).line)
    best = {}
    for peer in (*workload.peers, *workload.once):
        rates: list[tuple[float, Settings]] = []
        for settings in list_candidates(workload, peer, cores=setup.cores):
            task = _make_task(workload, setup, num_images=num_images, settings=settings)
            run = _run_task(peer, task, setup)
            setup.on_progress(f"{workload.name}: {_describe_run(peer, run)} with {settings}")
            rates.append((run.images_per_s, settings))
        best[tuning_key(workload, peer)] = max(rates, key=lambda pair: pair[0])[1]
    return best


def _run_task(name: str, task: Task, setup: BenchmarkSetup) -> ContenderRun:
    python = setup.daft[0] if name == "daft" else sys.executable
    return contenders.run_contender(name, task, folder=setup.folder / "run", python=python, timeout_s=_TIMEOUT_S)


def _make_task(workload: Workload, setup: BenchmarkSetup, *, num_images: int, settings: Settings) -> Task:
    return Task(
        endpoint_url=setup.endpoint_url,
        bucket=images.BUCKET,
        keys=tuple(images.list_keys(setup.served, workload.images, num_images=num_images)),
        models=tuple(str(setup.models[builder]) for builder in workload.builders),
        out=str(setup.folder / "run" / "out"),
        settings=settings,
    )


def _find_limits(rows: Sequence[Row], workload: Workload) -> Limits | None:
    """Return the limits from the rows that have each model alone on the same images; None if a row is missing."""
    alone = {row.workload.builders: row.limits for row in rows if row.workload.images == workload.images}
    if not all((builder,) in alone for builder in workload.builders):
        return None
    limits = [alone[builder,] for builder in workload.builders]
    return Limits(
        models={name: rate for one in limits for name, rate in one.models.items()},
        engine={name: rate for one in limits for name, rate in one.engine.items()},
        decode_full=min(one.decode_full for one in limits),
        decode_line=min(one.decode_line for one in limits),  # the model that needs the most pixels decides
    )


def _measure_limits(workload: Workload, setup: BenchmarkSetup) -> Limits:
    """Measure the limits in a process of their own, as every contender runs."""
    setup.on_progress(f"{workload.name}: limits")
    task = _make_task(workload, setup, num_images=images.MAX_IMAGES, settings=_UNUSED)
    setup.folder.mkdir(parents=True, exist_ok=True)
    path = setup.folder / "limits.json"
    task.write(path)
    command = [sys.executable, "-m", "benchmarks.speed.limits", str(path)]
    stdout, stderr, status = contenders.run_command(command, task, timeout_s=_TIMEOUT_S)
    if status:
        raise SystemExit(f"the limits could not be measured; {' '.join(command)} ended with {status}:\n{stderr}")
    return Limits(**json.loads(stdout))


def _compare_answers(reference: Answers | None, answers: Answers | None) -> Agreement | None:
    return compute_agreement(reference, answers) if reference and answers else None


def _describe_run(name: str, run: ContenderRun) -> str:
    if run.problem:
        return f"{name} {run.problem}"
    return f"{name} {run.images_per_s:.2f} images/s, {run.whole_s:.1f} s as a whole"


def list_missed_bars(rows: Sequence[Row]) -> list[str]:
    """Return one line for each bar that was not reached, and for each workload in which our answers are wrong."""
    lines = []
    for row in rows:
        if row.ours.problem or row.ours.agreement is None:
            lines.append(
                f"{row.workload.name}: nothing to compare: {row.ours.problem or f'{row.workload.reference} failed'}"
            )
        elif not row.ours.is_comparable:
            lines.append(
                f"{row.workload.name}: batchtag gives other tags than {row.workload.reference}: {row.ours.agreement}"
            )
        for what, reached, bar in (
            ("times the fastest peer", row.of_peer, row.workload.of_peer),
            ("of its limit", row.of_limit, row.workload.of_limit),
        ):
            if bar and reached < bar:
                lines.append(f"{row.workload.name}: {reached:.2f} {what}, the bar is {bar:.2f}")
    return lines

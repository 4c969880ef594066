"""The order of a benchmark: limits first, then A B C, A B C; outputs are compared, and only then times.

Peers that run once come after all rounds of all works, while there is time.
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
from benchmarks.speed.compare import Agreement, Answers, agreement
from benchmarks.speed.contenders import OURS, Outcome
from benchmarks.speed.limits import Limits
from benchmarks.speed.peers.task import Task
from benchmarks.speed.works import Scale, Settings, Work, candidates, settings_of, tuning_key

AGREES = 0.99
"""Of images' best labels, and of sure boxes. Seeded weights forgive less than trained ones: OpenVINO's rounding moves
four boxes in a thousand over an edge."""
NO_TIME = "time was over"
_TIMEOUT_S = 600.0
_UNUSED = Settings(batch_size=0, workers=0, threads=0)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where it takes place: the server, the served folder, room for outputs, the models, who runs Daft."""

    endpoint_url: str
    served: Path
    place: Path
    models: Mapping[str, Path]
    cores: int
    daft: tuple[str, str]
    tuned: Mapping[str, Settings] = field(default_factory=dict)
    ends_at: float = math.inf
    """When no peer that runs once is begun any more, as time.monotonic() counts."""
    told: Callable[[str], None] = print


@dataclass(frozen=True, kw_only=True)
class Result:
    """One contender's runs of one work, with the agreement of its answers with the reference's."""

    name: str
    settings: Settings
    outcomes: tuple[Outcome, ...]
    agreement: Agreement | None
    is_once: bool = False

    @property
    def is_comparable(self) -> bool:
        """Whether it ended well and says what the reference says: what gives other tags is no comparison."""
        same = self.agreement
        return not self.problem and same is not None and min(same.classes, same.boxes) >= AGREES

    @property
    def problem(self) -> str:
        return next((outcome.problem for outcome in self.outcomes if outcome.problem), "")

    @property
    def images_per_s(self) -> float:
        """While tagging; the median of the rounds, 0 if one failed."""
        return 0.0 if self.problem else median(outcome.images_per_s for outcome in self.outcomes)

    @property
    def whole_s(self) -> float:
        """From start to end, the median."""
        return 0.0 if self.problem else median(outcome.whole_s for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One work: its limits, and everybody's results, ours first."""

    work: Work
    num_images: int
    limits: Limits
    results: tuple[Result, ...]
    reference: Answers | None = None
    """What the work's reference says of the images."""

    @property
    def ours(self) -> Result:
        return self.results[0]

    @property
    def fastest_peer(self) -> Result | None:
        """Of those that are comparable; None if none is."""
        comparable = [one for one in self.results[1:] if one.is_comparable]
        return max(comparable, key=lambda one: one.images_per_s, default=None)

    @property
    def of_peer(self) -> float:
        """How many times the fastest peer's rate ours is; 0 where one of them is missing."""
        peer = self.fastest_peer
        return self.ours.images_per_s / peer.images_per_s if peer else 0.0

    @property
    def of_limit(self) -> float:
        return self.ours.images_per_s / self._limit

    @property
    def of_engine(self) -> float:
        """What we reach of what the cores could do with the models in our engine."""
        return self.ours.images_per_s / self.limits.line_of_engine

    @property
    def _limit(self) -> float:
        """For one job of several models, the bare times alone: its bar is stated in them."""
        return 1 / self.limits.bare_s if len(self.work.builders) > 1 else self.limits.line


def measured(work: Work, *, scale: Scale, ground: Ground, before: Sequence[Row] = ()) -> Row:
    """One work in all its rounds. Peers that run once come later, but for the reference.

    `before` are the rows so far: each model is measured alone once.
    """
    limits = _limits_of(before, work) or _limits_now(work, ground)
    num_images = scale.num_images(work, limits.line)
    names = [OURS, *(peer for peer in work.peers if _can_run(peer, ground))]
    names += [work.reference] * (work.reference in work.once)
    runs: dict[str, list[Outcome]] = {name: [] for name in names}
    for number in range(scale.rounds):
        for name in names:
            if name in work.once and number:
                continue
            task = _task(work, ground, num_images=num_images, settings=_settings(work, name, ground))
            runs[name].append(_run(name, task, ground))
            ground.told(f"{work.name}, round {number + 1}: {_words(name, runs[name][-1])}")
    row = Row(work=work, num_images=num_images, limits=limits, results=(), reference=runs[work.reference][0].answers)
    for name, outcomes in runs.items():
        row = _with(row, name, outcomes, ground)
    return row


def completed(row: Row, *, ground: Ground) -> Row:
    """The row with the peers that run once, as far as there is time, and those that cannot run."""
    work = row.work
    for peer in (*work.peers, *work.once):
        if any(result.name == peer for result in row.results):
            continue
        if not _can_run(peer, ground):
            outcome = Outcome(problem=ground.daft[1])
        elif time.monotonic() > ground.ends_at:
            outcome = Outcome(problem=NO_TIME)
        else:
            task = _task(work, ground, num_images=row.num_images, settings=_settings(work, peer, ground))
            outcome = _run(peer, task, ground)
            ground.told(f"{work.name}, once: {_words(peer, outcome)}")
        row = _with(row, peer, [outcome], ground)
    return row


def _with(row: Row, name: str, outcomes: Sequence[Outcome], ground: Ground) -> Row:
    result = Result(
        name=name,
        settings=_settings(row.work, name, ground),
        outcomes=tuple(replace(outcome, answers=None) for outcome in outcomes),
        agreement=_agreement(row.reference, outcomes[0].answers),
        is_once=name in row.work.once,
    )
    return replace(row, results=(*row.results, result))


def _settings(work: Work, name: str, ground: Ground) -> Settings:
    return _UNUSED if name == OURS else settings_of(work, name, cores=ground.cores, tuned=ground.tuned)


def _can_run(peer: str, ground: Ground) -> bool:
    return peer != "daft" or not ground.daft[1]


def tuned(work: Work, *, scale: Scale, ground: Ground) -> dict[str, Settings]:
    """The fastest settings of each peer, by one short run of every candidate."""
    num_images = scale.num_images(work, _limits_now(work, ground).line)
    best = {}
    for peer in (*work.peers, *work.once):
        rates: list[tuple[float, Settings]] = []
        for settings in candidates(work, peer, cores=ground.cores):
            task = _task(work, ground, num_images=num_images, settings=settings)
            outcome = _run(peer, task, ground)
            ground.told(f"{work.name}: {_words(peer, outcome)} with {settings}")
            rates.append((outcome.images_per_s, settings))
        best[tuning_key(work, peer)] = max(rates, key=lambda pair: pair[0])[1]
    return best


def _run(name: str, task: Task, ground: Ground) -> Outcome:
    python = ground.daft[0] if name == "daft" else sys.executable
    return contenders.run(name, task, place=ground.place / "run", python=python, timeout_s=_TIMEOUT_S)


def _task(work: Work, ground: Ground, *, num_images: int, settings: Settings) -> Task:
    return Task(
        endpoint_url=ground.endpoint_url,
        bucket=images.BUCKET,
        keys=tuple(images.names(ground.served, work.images, num_images=num_images)),
        models=tuple(str(ground.models[builder]) for builder in work.builders),
        out=str(ground.place / "run" / "out"),
        settings=settings,
    )


def _limits_of(rows: Sequence[Row], work: Work) -> Limits | None:
    """Those of models that each have a row of their own with the same images; None if one has not."""
    alone = {row.work.builders: row.limits for row in rows if row.work.images == work.images}
    if not all((builder,) in alone for builder in work.builders):
        return None
    found = [alone[builder,] for builder in work.builders]
    return Limits(
        models={name: rate for one in found for name, rate in one.models.items()},
        engine={name: rate for one in found for name, rate in one.engine.items()},
        decode_full=min(one.decode_full for one in found),
        decode_line=min(one.decode_line for one in found),  # who needs the most pixels decides
    )


def _limits_now(work: Work, ground: Ground) -> Limits:
    """In a process of its own, like everybody."""
    ground.told(f"{work.name}: limits")
    task = _task(work, ground, num_images=images.MOST, settings=_UNUSED)
    ground.place.mkdir(parents=True, exist_ok=True)
    path = ground.place / "limits.json"
    task.write(path)
    words = [sys.executable, "-m", "benchmarks.speed.limits", str(path)]
    answer, story, status = contenders.ended(words, task, timeout_s=_TIMEOUT_S)
    if status:
        raise SystemExit(f"the limits could not be measured; {' '.join(words)} ended with {status}:\n{story}")
    return Limits(**json.loads(answer))


def _agreement(reference: Answers | None, answers: Answers | None) -> Agreement | None:
    return agreement(reference, answers) if reference and answers else None


def _words(name: str, outcome: Outcome) -> str:
    if outcome.problem:
        return f"{name} {outcome.problem}"
    return f"{name} {outcome.images_per_s:.2f} images/s, {outcome.whole_s:.1f} s in all"


def missed(rows: Sequence[Row]) -> list[str]:
    """The bars that were not reached, in words, and answers of ours that differ from the reference's."""
    lines = []
    for row in rows:
        if row.ours.problem or row.ours.agreement is None:
            lines.append(f"{row.work.name}: nothing to compare: {row.ours.problem or f'{row.work.reference} failed'}")
        elif not row.ours.is_comparable:
            lines.append(f"{row.work.name}: batchtag gives other tags than {row.work.reference}: {row.ours.agreement}")
        for what, reached, bar in (
            ("times the fastest peer", row.of_peer, row.work.of_peer),
            ("of its limit", row.of_limit, row.work.of_limit),
        ):
            if bar and reached < bar:
                lines.append(f"{row.work.name}: {reached:.2f} {what}, the bar is {bar:.2f}")
    return lines

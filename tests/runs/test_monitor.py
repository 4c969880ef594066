"""Nothing hangs in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchtag.errors import RunFailed
from batchtag.output.types import Commit
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs.monitor import StallGuard, _Tally, wants_nodes
from batchtag.runs.progress import RunProgress


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(**doing: str) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        counters=RunStats(), alive_s=99.0, decode_threads=1, fetches=1, doing={f"b{k}": v for k, v in doing.items()}
    )


def commit(part: str) -> Commit:
    return Commit(
        part=part, first=0, num_images=1, num_tagged=1, num_failed=0, num_tags=1, tags_sha256="", errors_sha256=""
    )


def figures(*, fetch_s: float = 0.0, num_images: int = 0) -> RunProgress:
    return RunProgress(phase="tagging", counters=RunStats(fetch_s=fetch_s, num_images=num_images))


def test_a_run_in_which_nothing_moves_ends_and_says_where_it_stands() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {"aa": worker(_7="looks at images of", _8="opens images of"), "bb": worker()}
    guard.look(figures(num_images=5), workers, alive=workers)
    clock.now = 599.0
    guard.look(figures(num_images=5), workers, alive=workers)
    clock.now = 601.0
    with pytest.raises(RunFailed) as ended:
        guard.look(figures(num_images=5), workers, alive=workers)
    assert ended.value.message.startswith("nothing has moved for 10 min 00 s (compute.stall_timeout_s): ")
    assert (
        "worker aa: looks at images of bundle b_7, opens images of bundle b_8; worker bb: idle" in ended.value.message
    )


def test_tagging_began_when_its_first_worker_was_born_however_old_its_last_word_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("batchtag.runs.monitor.time.monotonic", clock)
    tally, told = _Tally(1), figures()
    clock.now = 101.5
    tally.refresh(told, {"aa": replace(worker(), alive_s=1.0, age_s=0.5)})
    assert told.tagging_s == 1.5
    clock.now = 104.0
    tally.refresh(told, {"aa": replace(worker(), alive_s=3.0, age_s=0.75)})  # its words take a moment to arrive
    assert told.tagging_s == 4.0
    tally.refresh(told, {"aa": replace(worker(), alive_s=3.5, age_s=0.75)})
    assert told.tagging_s == 4.25
    clock.now = 105.0
    tally.committed(commit("p"))
    clock.now = 106.0
    tally.refresh(told, {"aa": replace(worker(), alive_s=3.5, age_s=0.75)})
    assert told.tagging_s == 5.25, "its last commit is the end, whatever Ray does then"


def test_nodes_are_called_where_gpus_wait_for_images() -> None:
    waiting = RunProgress(phase="tagging", counters=RunStats(num_images=99), tagging_s=30.0, busy={"decode": 1.0})
    looking = replace(waiting, busy={"decode": 0.5, "predict": 0.9})
    assert wants_nodes(waiting, on_gpu=True, decode="auto")
    assert not wants_nodes(looking, on_gpu=True, decode="auto")
    assert not wants_nodes(replace(waiting, tagging_s=3.0), on_gpu=True, decode="auto"), "it is too early to tell"
    assert wants_nodes(looking, on_gpu=True, decode="own_pool"), "the job says so"
    assert not wants_nodes(waiting, on_gpu=True, decode="with_models")
    assert not wants_nodes(waiting, on_gpu=False, decode="auto"), "workers will be there themselves"


def test_a_device_that_hangs_is_no_move_though_its_seconds_grow() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    hanging, workers = figures(num_images=5), {"aa": worker()}
    for step in range(7):
        clock.now = hanging.counters.predict_s = 100.0 * step
        guard.look(hanging, workers, alive=workers)
    clock.now = hanging.counters.predict_s = 700.0
    with pytest.raises(RunFailed, match="nothing has moved for 10 min 00 s"):
        guard.look(hanging, workers, alive=workers)


def test_a_commit_that_is_told_twice_counts_once() -> None:
    tally, told = _Tally(2), figures()
    for part in ("p", "p"):
        tally.committed(commit(part))
    tally.refresh(told, {"aa": worker()})
    assert told.counters.num_images == 1


def test_a_second_more_of_fetching_is_a_move() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    for step in range(10):
        clock.now = 500.0 * step
        guard.look(figures(fetch_s=float(step)), {"aa": worker()}, alive={"aa": worker()})


def test_machines_that_have_to_be_started_get_three_times_as_long() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    guard.look(figures(), {}, alive={})
    clock.now = 1790.0
    guard.look(figures(), {}, alive={})
    clock.now = 1801.0
    with pytest.raises(RunFailed, match=r"no worker is there; the cluster may lack the CPUs or GPUs.* or workers die"):
        guard.look(figures(), {}, alive={})


def test_of_many_workers_some_are_named_and_the_others_counted() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {f"w{number}": worker() for number in range(11)}
    guard.look(figures(), workers, alive=workers)
    clock.now = 601.0
    with pytest.raises(RunFailed, match=r"worker w3: idle; .*; worker w10: idle; and 3 more. What is committed stays"):
        guard.look(figures(), workers, alive=workers)


def test_workers_that_went_silent_are_named_with_what_they_did() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {"aa": worker(_7="looks at images of")}
    guard.look(figures(), workers, alive={})
    clock.now = 1801.0
    with pytest.raises(
        RunFailed, match="no worker gives a sign of life; the last ones were: worker aa: looks at images"
    ):
        guard.look(figures(), workers, alive={})

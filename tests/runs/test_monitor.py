"""The driver's loop: a run that is stuck ends with the reason, and every image counts once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchtag.errors import RunFailed, TooManyFailures
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs.monitor import StallGuard, ThisRun, check_failure_rate, needs_cpu_nodes
from batchtag.runs.progress import RunProgress
from tests.support.samples import commit


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(**activities: str) -> WorkerHeartbeat:
    by_bundle = {f"b{bundle}": activity for bundle, activity in activities.items()}
    return WorkerHeartbeat(stats=RunStats(), alive_s=99.0, decode_threads=1, fetches=1, activities=by_bundle)


def progress(*, fetch_s: float = 0.0, num_images: int = 0) -> RunProgress:
    return RunProgress(phase="tagging", stats=RunStats(fetch_s=fetch_s, num_images=num_images))


def test_a_run_in_which_nothing_changes_ends_and_says_what_each_worker_is_doing() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {"aa": worker(_7="predicting", _8="loading"), "bb": worker()}
    guard.check(progress(num_images=5), workers, alive=workers)
    clock.now = 599.0
    guard.check(progress(num_images=5), workers, alive=workers)
    clock.now = 601.0
    with pytest.raises(RunFailed) as ended:
        guard.check(progress(num_images=5), workers, alive=workers)
    assert ended.value.message.startswith("nothing has changed for 10 min 00 s (compute.stall_timeout_s): ")
    assert "worker aa: predicting bundle b_7, loading bundle b_8; worker bb: idle" in ended.value.message


def test_another_second_of_fetching_is_a_change() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    for step in range(10):
        clock.now = 500.0 * step
        guard.check(progress(fetch_s=float(step)), {"aa": worker()}, alive={"aa": worker()})


def test_the_growing_seconds_of_a_device_that_hangs_are_not_a_change() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    hanging, workers = progress(num_images=5), {"aa": worker()}
    for step in range(7):
        clock.now = hanging.stats.predict_s = 100.0 * step
        guard.check(hanging, workers, alive=workers)
    clock.now = hanging.stats.predict_s = 700.0
    with pytest.raises(RunFailed, match="nothing has changed for 10 min 00 s"):
        guard.check(hanging, workers, alive=workers)


def test_a_run_without_a_worker_is_given_three_times_as_long() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    guard.check(progress(), {}, alive={})
    clock.now = 1790.0
    guard.check(progress(), {}, alive={})
    clock.now = 1801.0
    with pytest.raises(
        RunFailed, match=r"no worker has started; the cluster may lack the CPUs or GPUs.* or workers die"
    ):
        guard.check(progress(), {}, alive={})


def test_eight_of_many_stuck_workers_are_named_and_the_others_counted() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {f"w{number}": worker() for number in range(11)}
    guard.check(progress(), workers, alive=workers)
    clock.now = 601.0
    message = r"worker w3: idle; .*; worker w10: idle; and 3 more. Committed parts stay"
    with pytest.raises(RunFailed, match=message):
        guard.check(progress(), workers, alive=workers)


def test_workers_that_send_no_heartbeat_are_named_with_what_they_did_last() -> None:
    clock = Clock()
    guard = StallGuard(600.0, clock=clock)
    workers = {"aa": worker(_7="predicting")}
    guard.check(progress(), workers, alive={})
    clock.now = 1801.0
    message = "no worker sends a heartbeat; the last ones were: worker aa: predicting bundle b_7"
    with pytest.raises(RunFailed, match=message):
        guard.check(progress(), workers, alive={})


def test_tagging_lasts_from_the_start_of_the_first_worker_to_the_last_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("batchtag.runs.monitor.time.monotonic", clock)
    this_run, shown = ThisRun(1), progress()
    clock.now = 101.5
    this_run.refresh(shown, {"aa": replace(worker(), alive_s=1.0, age_s=0.5)})
    assert shown.tagging_s == 1.5
    clock.now = 104.0
    this_run.refresh(shown, {"aa": replace(worker(), alive_s=3.0, age_s=0.75)})  # a heartbeat takes a moment to arrive
    assert shown.tagging_s == 4.0
    this_run.refresh(shown, {"aa": replace(worker(), alive_s=3.5, age_s=0.75)})
    assert shown.tagging_s == 4.25
    clock.now = 105.0
    this_run.add_commit(commit())
    clock.now = 106.0
    this_run.refresh(shown, {"aa": replace(worker(), alive_s=3.5, age_s=0.75)})
    assert shown.tagging_s == 5.25, "what Ray does after the last commit is not tagging"


def test_a_commit_that_is_reported_twice_counts_once() -> None:
    this_run, shown = ThisRun(2), progress()
    for _ in range(2):
        this_run.add_commit(commit(num_images=2))
    this_run.refresh(shown, {"aa": worker()})
    assert shown.stats.num_images == 2


def test_images_in_progress_count_until_their_bundle_is_committed_and_then_as_committed() -> None:
    this_run, shown = ThisRun(2), progress()
    first, second = commit(0, 4), commit(4, 4)
    in_flight = {first.part: RunStats(num_images=4), second.part: RunStats(num_images=1)}
    heartbeat = replace(worker(), stats=RunStats(num_images=9, fetched_bytes=70), in_flight=in_flight)
    this_run.refresh(shown, {"aa": heartbeat})
    assert (shown.stats.num_images, shown.stats.fetched_bytes) == (5, 70)
    this_run.add_commit(first)
    this_run.refresh(shown, {"aa": heartbeat})
    assert shown.stats.num_images == 5


def test_cpu_nodes_are_requested_only_if_gpus_wait_for_images_or_the_job_says_so() -> None:
    waiting = RunProgress(phase="tagging", stats=RunStats(num_images=99), tagging_s=30.0, busy={"decode": 1.0})
    computing = replace(waiting, busy={"decode": 0.5, "predict": 0.9})
    assert needs_cpu_nodes(waiting, on_gpu=True, decode="auto")
    assert not needs_cpu_nodes(computing, on_gpu=True, decode="auto")
    assert not needs_cpu_nodes(replace(waiting, tagging_s=3.0), on_gpu=True, decode="auto"), "it is too early to judge"
    assert needs_cpu_nodes(computing, on_gpu=True, decode="separate"), "the job says so"
    assert not needs_cpu_nodes(waiting, on_gpu=True, decode="with_models")
    assert not needs_cpu_nodes(waiting, on_gpu=False, decode="auto"), "workers themselves would run on more nodes"


def failures(num_failed: int, num_images: int) -> RunStats:
    stats = RunStats(num_images=num_images, num_failed=num_failed, examples={"truncated": ["s3://b/\x1b[31m.jpg"]})
    stats.failed_by_code.update({"truncated": num_failed - 1, "empty": 1})
    return stats


def test_a_failure_rate_above_the_limit_ends_the_run_with_codes_and_an_example() -> None:
    check_failure_rate(failures(20, 400), max_failure_rate=0.05)
    with pytest.raises(TooManyFailures) as ended:
        check_failure_rate(failures(21, 400), max_failure_rate=0.05)
    assert ended.value.message.startswith(
        "21 of 400 images failed, 5.2% (allowed 5.0%): truncated 20 (for example s3://"
    )
    assert "\x1b" not in ended.value.message
    assert ", empty 1. " in ended.value.message


def test_fewer_than_200_images_are_judged_only_at_the_end_and_only_if_all_failed() -> None:
    check_failure_rate(failures(199, 199), max_failure_rate=0.05)
    check_failure_rate(failures(198, 199), max_failure_rate=0.05, at_end=True)
    with pytest.raises(TooManyFailures):
        check_failure_rate(failures(199, 199), max_failure_rate=0.05, at_end=True)
    check_failure_rate(RunStats(), max_failure_rate=0.0, at_end=True)

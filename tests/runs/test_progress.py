from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from batchtag.console import format_duration
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs.progress import ProgressDisplay, RunProgress, compute_busy_shares, format_progress


def tagging() -> RunProgress:
    failures = Counter({"truncated": 3, "not_found": 1})
    return RunProgress(
        phase="tagging",
        total=10_000,
        done_before=1000,
        stats=RunStats(num_images=1500, num_failed=4, failed_by_code=failures, examples={"truncated": ["a"]}),
        tagging_s=30.0,
        busy={"fetch": 0.25, "decode": 0.5, "predict": 0.987},
    )


def test_the_line_has_the_images_done_the_rate_the_failures_and_the_bottleneck() -> None:
    assert format_progress(tagging()) == (
        "2,500 of 10,000 images (25%) | 50.0/s | 2 min 30 s left | 4 failed (truncated 3, not_found 1) | "
        "busy: fetch 25% decode 50% predict 99%; bottleneck predict"
    )


def test_the_line_counts_the_gpus_in_use() -> None:
    on_gpus = RunProgress(phase="tagging", total=10, workers=16, device="cuda", gpus_per_worker=0.5)
    assert format_progress(on_gpus).endswith(" | 16 workers on 8 GPUs")
    on_cpu = RunProgress(phase="tagging", total=10, workers=1, device="cpu")
    assert format_progress(on_cpu).endswith(" | 1 worker on cpu")


def test_the_line_has_the_decode_workers_of_each_worker() -> None:
    separate = RunProgress(phase="tagging", workers=2, device="cuda", gpus_per_worker=1.0, decode_workers=6)
    assert format_progress(separate).endswith(" | 2 workers on 2 GPUs, 6 decode workers each")


def test_the_line_has_no_remaining_time_before_the_first_image() -> None:
    assert format_progress(RunProgress(phase="tagging", total=10)) == "0 of 10 images (0%) | 0.0/s"
    assert format_progress(RunProgress(phase="listing: 5,000 images")) == "listing: 5,000 images"
    assert format_progress(RunProgress(phase="tagging")) == "0 of 0 images (100%) | 0.0/s"


def test_restarted_bundles_do_not_raise_the_images_done_above_the_total() -> None:
    progress = RunProgress(phase="tagging", total=100, done_before=50, stats=RunStats(num_images=80), tagging_s=1.0)
    assert (progress.done, progress.remaining_s) == (100, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.6, "1 h 00 min"),
        (5 * 3600 + 720, "5 h 12 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_stage_is_busy_for_the_share_of_its_capacity_that_it_used() -> None:
    workers = {
        "w1": WorkerHeartbeat(
            stats=RunStats(fetch_s=40.0, decode_s=10.0, predict_s=9.0), alive_s=10.0, decode_threads=2, fetches=8
        ),
        "w2": WorkerHeartbeat(stats=RunStats(), alive_s=10.0, decode_threads=2, fetches=8),
    }
    assert compute_busy_shares(workers) == {"fetch": 0.25, "decode": 0.25, "predict": 0.45}
    assert compute_busy_shares({}) == {}


def test_a_stage_is_never_busy_for_more_than_all_of_its_capacity() -> None:
    heartbeat = WorkerHeartbeat(stats=RunStats(predict_s=10.4), alive_s=10.0, decode_threads=1, fetches=1)
    assert compute_busy_shares({"w": heartbeat})["predict"] == 1.0


def test_the_record_has_the_numbers_of_the_line() -> None:
    record = tagging().to_json()
    assert (record["images"], record["failed"], record["bottleneck"]) == (1500, 4, "predict")
    assert record["failed_by_code"] == {"truncated": 3, "not_found": 1}
    assert record["busy"]["predict"] == 0.987


def test_the_progress_in_a_record_is_the_one_that_was_written() -> None:
    progress = tagging()
    progress.workers, progress.device, progress.gpus_per_worker, progress.decode_workers = 16, "cuda", 0.5, 8
    record = {"num_images": progress.total, "this_run": progress.to_json()}
    assert RunProgress.from_record(json.loads(json.dumps(record))) == progress


def test_the_progress_in_a_record_of_version_0_1_is_read() -> None:
    this_run = {"phase": "tagging", "images": 7, "workers": 4, "device": "cuda", "gpus_each": 0.5, "openers": 3}
    progress = RunProgress.from_record({"num_images": 100, "this_run": this_run})
    assert (progress.total, progress.stats.num_images) == (100, 7)
    assert format_progress(progress).endswith(" | 4 workers on 2 GPUs, 3 decode workers each")


class Clock:
    """Seconds, set by the test."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_plain_line_is_printed_every_ten_seconds() -> None:
    printed, clock = io.StringIO(), Clock()
    with ProgressDisplay(Console(file=printed, width=20), clock=clock) as display:
        for clock.now in (0.0, 0.5, 9.9, 10.0, 10.5, 25.0):
            display.show(RunProgress(phase=f"listing [bold] at {clock.now}"))
    assert printed.getvalue() == "".join(f"listing [bold] at {at}\n" for at in (0.0, 10.0, 25.0))


def test_on_a_terminal_printed_lines_stay_above_the_live_line() -> None:
    printed = io.StringIO()
    with ProgressDisplay(Console(file=printed, force_terminal=True, width=80), clock=Clock()) as display:
        display.show(RunProgress(phase="listing"))
        display.print_line("run r-1 has died")
    assert "run r-1 has died" in printed.getvalue()


def test_a_quiet_display_prints_nothing() -> None:
    printed = io.StringIO()
    with ProgressDisplay(Console(file=printed), quiet=True, clock=Clock()) as display:
        display.show(RunProgress(phase="listing"))
        display.print_line("anything")
    assert printed.getvalue() == ""

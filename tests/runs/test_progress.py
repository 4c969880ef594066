from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from batchtag.console import format_duration
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs.progress import Progress, RunProgress, as_json, busy_shares, figures_of, line, sum_counters


def counters(**sums: float) -> RunStats:
    return RunStats(**sums)  # type: ignore[arg-type]


def tagging() -> RunProgress:
    failures = Counter({"truncated": 3, "not_found": 1})
    return RunProgress(
        phase="tagging",
        total=10_000,
        done_before=1000,
        counters=RunStats(num_images=1500, num_failed=4, failed_by_code=failures, examples={"truncated": ["a"]}),
        tagging_s=30.0,
        busy={"fetch": 0.25, "decode": 0.5, "predict": 0.987},
    )


def test_the_line_says_how_far_how_fast_what_failed_and_what_holds_it_up() -> None:
    assert line(tagging()) == (
        "2,500 of 10,000 images (25%) | 50.0/s | 2 min 30 s left | 4 failed (truncated 3, not_found 1) | "
        "busy: fetch 25% decode 50% predict 99%; bottleneck predict"
    )


def test_the_line_counts_the_gpus_in_use() -> None:
    figures = RunProgress(phase="tagging", total=10, workers=16, device="cuda", gpus_each=0.5)
    assert line(figures).endswith(" | 16 workers on 8 GPUs")
    assert line(figures_of({"this_run": as_json(figures)})).endswith(" | 16 workers on 8 GPUs"), "also from its record"
    assert line(RunProgress(phase="tagging", total=10, workers=1, device="cpu")).endswith(" | 1 worker on cpu")


def test_before_the_first_image_the_line_promises_nothing() -> None:
    assert line(RunProgress(phase="tagging", total=10)) == "0 of 10 images (0%) | 0.0/s"
    assert line(RunProgress(phase="listing: 5,000 images")) == "listing: 5,000 images"
    assert line(RunProgress(phase="tagging")) == "0 of 0 images (100%) | 0.0/s"


def test_bundles_that_were_begun_again_do_not_pass_the_total() -> None:
    figures = RunProgress(phase="tagging", total=100, done_before=50, counters=RunStats(num_images=80), tagging_s=1.0)
    assert (figures.done, figures.left_s) == (100, 0.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
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
def test_durations_have_two_figures_at_most(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_a_stage_is_busy_for_the_share_of_its_capacity() -> None:
    workers = {
        "w1": WorkerHeartbeat(
            counters=counters(fetch_s=40.0, decode_s=10.0, predict_s=9.0), alive_s=10.0, decode_threads=2, fetches=8
        ),
        "w2": WorkerHeartbeat(counters=counters(fetch_s=0.0), alive_s=10.0, decode_threads=2, fetches=8),
    }
    assert busy_shares(workers) == {"fetch": 0.25, "decode": 0.25, "predict": 0.45}
    assert busy_shares({}) == {}
    assert sum_counters(workers).fetch_s == 40.0


def test_no_stage_is_more_than_always_busy() -> None:
    figures = WorkerHeartbeat(counters=counters(predict_s=10.4), alive_s=10.0, decode_threads=1, fetches=1)
    assert busy_shares({"w": figures})["predict"] == 1.0


def test_the_record_has_the_same_figures() -> None:
    record = as_json(tagging())
    assert (record["images"], record["failed"], record["bottleneck"]) == (1500, 4, "predict")
    assert record["failed_by_code"] == {"truncated": 3, "not_found": 1}
    assert record["busy"]["predict"] == 0.987


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elsewhere_than_on_a_terminal_a_plain_line_comes_every_ten_seconds() -> None:
    told, clock = io.StringIO(), Clock()
    with Progress(Console(file=told, width=20), clock=clock) as progress:
        for clock.now in (0.0, 0.5, 9.9, 10.0, 10.5, 25.0):
            progress.show(RunProgress(phase=f"listing [bold] at {clock.now}"))
    assert told.getvalue() == "".join(f"listing [bold] at {at}\n" for at in (0.0, 10.0, 25.0))


def test_a_terminal_has_one_live_line_and_what_is_said_stays() -> None:
    told = io.StringIO()
    with Progress(Console(file=told, force_terminal=True, width=80), clock=Clock()) as progress:
        progress.show(RunProgress(phase="listing"))
        progress.say("run r-1 is dead")
    assert "run r-1 is dead" in told.getvalue()


def test_quiet_is_quiet() -> None:
    told = io.StringIO()
    with Progress(Console(file=told), quiet=True, clock=Clock()) as progress:
        progress.show(RunProgress(phase="listing"))
        progress.say("anything")
    assert told.getvalue() == ""

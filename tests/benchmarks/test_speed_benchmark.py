"""`benchmarks.speed` compares answers before times, and names every bar that is missed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.speed import report, rounds
from benchmarks.speed.compare import Agreement, Answers, compute_agreement
from benchmarks.speed.contenders import OURS, PEERS, ContenderRun
from benchmarks.speed.limits import Limits
from benchmarks.speed.rounds import (
    OUT_OF_TIME,
    BenchmarkSetup,
    Result,
    Row,
    add_single_runs,
    list_missed_bars,
    measure_workload,
)
from benchmarks.speed.workloads import FULL, QUICK, WORKLOADS, Settings, Workload, list_candidates

SETTINGS = Settings(batch_size=1, workers=1, threads=1)
SAME = Agreement(classes=1.0, boxes=1.0, num_boxes=9)
LIMITS = Limits(models={"net": 20.0}, engine={"net": 40.0}, decode_full=500.0, decode_line=1000.0)


def make_result(name: str, seconds: float, *, agrees: Agreement | None = SAME, problem: str = "") -> Result:
    run = ContenderRun(num_images=100, tagging_s=seconds, whole_s=seconds + 5, problem=problem)
    return Result(name=name, settings=SETTINGS, runs=(run,), agreement=agrees)


def make_row(*results: Result) -> Row:
    return Row(
        workload=replace(WORKLOADS[0], of_peer=1.3, of_limit=0.85), num_images=100, limits=LIMITS, results=results
    )


def test_a_peer_with_other_tags_is_not_compared() -> None:
    wrong = Agreement(classes=1.0, boxes=0.4, num_boxes=9)
    row = make_row(make_result(OURS, 5.0), make_result("list", 1.0, agrees=wrong), make_result("plain", 10.0))
    assert row.fastest_peer is not None
    assert (row.fastest_peer.name, row.of_peer) == ("plain", 2.0)
    assert list_missed_bars([row]) == []


def test_other_tags_of_batchtag_are_reported_whatever_the_time_is() -> None:
    wrong = Agreement(classes=0.5, boxes=1.0, num_boxes=9)
    (line,) = list_missed_bars([make_row(make_result(OURS, 5.0, agrees=wrong), make_result("plain", 10.0))])
    assert "batchtag gives other tags than plain" in line


def test_a_run_that_failed_is_not_reported_as_other_tags() -> None:
    ours = make_row(make_result(OURS, 5.0, agrees=None, problem="ended with 1: no"), make_result("plain", 10.0))
    theirs = make_row(
        make_result(OURS, 5.0, agrees=None), make_result("plain", 10.0, agrees=None, problem="ended with 1: no")
    )
    assert list_missed_bars([ours])[0] == "mobilenet_v3_large: nothing to compare: ended with 1: no"
    assert list_missed_bars([theirs])[0] == "mobilenet_v3_large: nothing to compare: plain failed"


def test_a_bar_that_is_not_reached_is_reported() -> None:
    lines = list_missed_bars([make_row(make_result(OURS, 8.0), make_result("plain", 10.0))])
    assert lines == [
        "mobilenet_v3_large: 1.25 times the fastest peer, the bar is 1.30",
        "mobilenet_v3_large: 0.64 of its limit, the bar is 0.85",
    ]


def test_one_box_matches_only_one_of_two_equal_boxes() -> None:
    box = [7.0, 0.9, 10.0, 10.0, 50.0, 50.0]
    one, two = (Answers(classes={}, boxes={"a": np.array(boxes)}) for boxes in ([box], [box, box]))
    assert compute_agreement(one, one).boxes == 1.0
    assert compute_agreement(one, two).boxes == compute_agreement(two, one).boxes == pytest.approx(2 / 3)


def test_every_workload_has_every_peer_that_can_do_it() -> None:
    for workload in WORKLOADS:
        possible = set(PEERS) - ({"list"} if workload.classifiers else set())
        if workload.of_peer:
            assert {*workload.peers, *workload.once} == possible, workload.name
    assert {workload.name for workload in QUICK.workloads} < {workload.name for workload in FULL.workloads}


def test_the_first_settings_of_a_peer_give_the_answers_of_a_single_image() -> None:
    for workload in WORKLOADS:
        for peer in (*workload.peers, *workload.once):
            first, *_ = list_candidates(workload, peer, cores=2)
            assert first.batch_size == (1 if workload.detectors else workload.batch_size)


@pytest.mark.parametrize(("ends_at", "of_ray"), [(math.inf, ""), (0.0, OUT_OF_TIME)])
def test_contenders_take_turns_in_each_round_and_peers_that_run_once_come_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends_at: float, of_ray: str
) -> None:
    ran: list[str] = []
    answers = Answers(classes={"a": 1}, boxes={})

    def run(name: str, task: object, setup: BenchmarkSetup) -> ContenderRun:
        ran.append(name)
        return ContenderRun(num_images=8, tagging_s=1.0, whole_s=2.0, answers=answers)

    monkeypatch.setattr(rounds, "_run_task", run)
    monkeypatch.setattr(rounds, "_measure_limits", lambda workload, setup: LIMITS)
    monkeypatch.setattr(rounds, "_make_task", lambda *args, **kwargs: None)
    workload = Workload(name="net", classifiers=("net",), peers=("list", "daft"), once=("plain", "ray"))
    setup = BenchmarkSetup(
        endpoint_url="",
        served=tmp_path,
        folder=tmp_path,
        models={},
        cores=2,
        daft=("", "no Daft here"),
        ends_at=ends_at,
        on_progress=lambda line: None,
    )
    row = measure_workload(workload, scale=replace(FULL, rounds=2), setup=setup)
    assert ran == [OURS, "list", "plain", OURS, "list"]
    row = add_single_runs(row, setup=setup)
    assert ran[5:] == ([] if of_ray else ["ray"])
    assert [(result.name, result.problem, len(result.runs)) for result in row.results] == [
        (OURS, "", 2),
        ("list", "", 2),
        ("plain", "", 1),
        ("daft", "no Daft here", 1),
        ("ray", of_ray, 1),
    ]
    assert [result.is_comparable for result in row.results] == [True, True, True, False, not of_ray]


def test_models_with_a_row_of_their_own_are_not_measured_alone_again() -> None:
    net, other = Workload(name="net", classifiers=("net",)), Workload(name="other", detectors=("other",))
    large = replace(other, images="12-megapixel")
    both = Workload(name="both", classifiers=("net",), detectors=("other",))
    slower = Limits(models={"other": 2.0}, engine={"other": 3.0}, decode_full=400.0, decode_line=900.0)
    rows = [replace(make_row(), workload=net, limits=LIMITS), replace(make_row(), workload=large, limits=slower)]
    assert rounds._find_limits(rows, both) is None
    rows.append(replace(make_row(), workload=other, limits=slower))
    assert rounds._find_limits(rows, both) == Limits(
        models={"other": 2.0, "net": 20.0}, engine={"other": 3.0, "net": 40.0}, decode_full=400.0, decode_line=900.0
    )


def test_the_reference_of_every_workload_is_one_of_its_peers() -> None:
    for workload in WORKLOADS:
        assert workload.reference in (*workload.peers, *workload.once), workload.name


def test_results_are_shown_and_written(tmp_path: Path) -> None:
    rows = [
        make_row(
            make_result(OURS, 5.0),
            make_result("plain", 10.0),
            make_result("ray", 0.0, agrees=None, problem=OUT_OF_TIME),
        )
    ]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(report.make_table(rows))
    shown = console.export_text()
    assert "2.00 (bar 1.30) x PyTorch DataLoader, the fastest peer; 1.02 (bar 0.85) of the limit" in shown
    assert f"not measured: {OUT_OF_TIME}" in shown
    content = report.to_json(rows, cores=2, distinct={"ordinary": 3}, daft="0")
    assert json.loads(json.dumps(content))["workloads"][0]["of_fastest_peer"] == 2.0
    report.draw_chart(rows, tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").read_text().count("not measured") == 1

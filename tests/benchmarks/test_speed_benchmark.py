"""The benchmark against the other ways compares answers before times, and says what is missed."""

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
from benchmarks.speed.compare import Agreement, Answers, agreement
from benchmarks.speed.contenders import OURS, PEERS, Outcome
from benchmarks.speed.limits import Limits
from benchmarks.speed.rounds import NO_TIME, Ground, Result, Row, completed, measured, missed
from benchmarks.speed.works import FULL, QUICK, WORKS, Settings, Work, candidates

SETTINGS = Settings(batch_size=1, workers=1, threads=1)
SAME = Agreement(classes=1.0, boxes=1.0, num_boxes=9)
LIMITS = Limits(models={"net": 20.0}, engine={"net": 40.0}, decode_full=500.0, decode_line=1000.0)


def result(name: str, seconds: float, *, agrees: Agreement | None = SAME, problem: str = "") -> Result:
    outcome = Outcome(num_images=100, tagging_s=seconds, whole_s=seconds + 5, problem=problem)
    return Result(name=name, settings=SETTINGS, outcomes=(outcome,), agreement=agrees)


def row(*results: Result) -> Row:
    return Row(work=replace(WORKS[0], of_peer=1.3, of_limit=0.85), num_images=100, limits=LIMITS, results=results)


def test_a_peer_that_gives_other_tags_is_no_comparison() -> None:
    wrong = Agreement(classes=1.0, boxes=0.4, num_boxes=9)
    measured = row(result(OURS, 5.0), result("list", 1.0, agrees=wrong), result("plain", 10.0))
    assert measured.fastest_peer is not None
    assert (measured.fastest_peer.name, measured.of_peer) == ("plain", 2.0)
    assert missed([measured]) == []


def test_other_tags_of_ours_are_told_whatever_the_time() -> None:
    wrong = Agreement(classes=0.5, boxes=1.0, num_boxes=9)
    (line,) = missed([row(result(OURS, 5.0, agrees=wrong), result("plain", 10.0))])
    assert "batchtag gives other tags than plain" in line


def test_a_run_that_failed_is_not_said_to_give_other_tags() -> None:
    ours = row(result(OURS, 5.0, agrees=None, problem="ended with 1: no"), result("plain", 10.0))
    theirs = row(result(OURS, 5.0, agrees=None), result("plain", 10.0, agrees=None, problem="ended with 1: no"))
    assert missed([ours])[0] == "mobilenet_v3_large: nothing to compare: ended with 1: no"
    assert missed([theirs])[0] == "mobilenet_v3_large: nothing to compare: plain failed"


def test_a_bar_that_is_not_reached_is_told() -> None:
    lines = missed([row(result(OURS, 8.0), result("plain", 10.0))])
    assert lines == [
        "mobilenet_v3_large: 1.25 times the fastest peer, the bar is 1.30",
        "mobilenet_v3_large: 0.64 of its limit, the bar is 0.85",
    ]


def test_one_box_is_not_the_same_as_two_of_the_other_s() -> None:
    box = [7.0, 0.9, 10.0, 10.0, 50.0, 50.0]
    one, two = (Answers(classes={}, boxes={"a": np.array(boxes)}) for boxes in ([box], [box, box]))
    assert agreement(one, one).boxes == 1.0
    assert agreement(one, two).boxes == agreement(two, one).boxes == pytest.approx(2 / 3)


def test_every_work_meets_every_peer_that_can_do_it() -> None:
    for work in WORKS:
        possible = set(PEERS) - ({"list"} if work.classifiers else set())
        if work.of_peer:
            assert {*work.peers, *work.once} == possible, work.name
    assert {work.name for work in QUICK.works} < {work.name for work in FULL.works}


def test_a_peer_s_first_settings_give_the_answers_of_a_lone_image() -> None:
    for work in WORKS:
        for peer in (*work.peers, *work.once):
            first, *_ = candidates(work, peer, cores=2)
            assert first.batch_size == (1 if work.detectors else work.batch_size)


@pytest.mark.parametrize(("ends_at", "of_ray"), [(math.inf, ""), (0.0, NO_TIME)])
def test_everybody_has_a_turn_in_each_round_and_who_runs_once_comes_when_all_are_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends_at: float, of_ray: str
) -> None:
    ran: list[str] = []
    said = Answers(classes={"a": 1}, boxes={})

    def run(name: str, task: object, ground: Ground) -> Outcome:
        ran.append(name)
        return Outcome(num_images=8, tagging_s=1.0, whole_s=2.0, answers=said)

    monkeypatch.setattr(rounds, "_run", run)
    monkeypatch.setattr(rounds, "_limits_now", lambda work, ground: LIMITS)
    monkeypatch.setattr(rounds, "_task", lambda *args, **kwargs: None)
    work = Work(name="net", classifiers=("net",), peers=("list", "daft"), once=("plain", "ray"))
    place = Ground(
        endpoint_url="",
        served=tmp_path,
        place=tmp_path,
        models={},
        cores=2,
        daft=("", "no Daft here"),
        ends_at=ends_at,
        told=lambda line: None,
    )
    found = measured(work, scale=replace(FULL, rounds=2), ground=place)
    assert ran == [OURS, "list", "plain", OURS, "list"]
    found = completed(found, ground=place)
    assert ran[5:] == ([] if of_ray else ["ray"])
    assert [(one.name, one.problem, len(one.outcomes)) for one in found.results] == [
        (OURS, "", 2),
        ("list", "", 2),
        ("plain", "", 1),
        ("daft", "no Daft here", 1),
        ("ray", of_ray, 1),
    ]
    assert [one.is_comparable for one in found.results] == [True, True, True, False, not of_ray]


def test_models_that_had_a_row_of_their_own_are_not_measured_alone_again() -> None:
    net, other = Work(name="net", classifiers=("net",)), Work(name="other", detectors=("other",))
    large = replace(other, images="12-megapixel")
    both = Work(name="both", classifiers=("net",), detectors=("other",))
    slower = Limits(models={"other": 2.0}, engine={"other": 3.0}, decode_full=400.0, decode_line=900.0)
    rows = [replace(row(), work=net, limits=LIMITS), replace(row(), work=large, limits=slower)]
    assert rounds._limits_of(rows, both) is None
    rows.append(replace(row(), work=other, limits=slower))
    assert rounds._limits_of(rows, both) == Limits(
        models={"other": 2.0, "net": 20.0}, engine={"other": 3.0, "net": 40.0}, decode_full=400.0, decode_line=900.0
    )


def test_every_work_has_its_reference_among_its_peers() -> None:
    for work in WORKS:
        assert work.reference in (*work.peers, *work.once), work.name


def test_what_was_measured_is_shown_and_written(tmp_path: Path) -> None:
    rows = [row(result(OURS, 5.0), result("plain", 10.0), result("ray", 0.0, agrees=None, problem=NO_TIME))]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(report.table(rows))
    shown = console.export_text()
    assert "2.00 (bar 1.30) x PyTorch DataLoader, the fastest peer; 1.02 (bar 0.85) of the limit" in shown
    assert f"not measured: {NO_TIME}" in shown
    content = report.as_json(rows, cores=2, distinct={"ordinary": 3}, daft="0")
    assert json.loads(json.dumps(content))["works"][0]["of_fastest_peer"] == 2.0
    report.draw(rows, tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").read_text().count("not measured") == 1

"""Submit, list, status, logs, wait, cancel against the dashboards of real Ray heads."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from batchtag.verify import verify
from benchmarks.heads import Head
from tests.line.test_line import draw, sql
from tests.started import Said, Typed


@pytest.fixture
def ask(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Head], Typed]:
    """A command to a head, to its end; notes of submissions go into a folder of the test."""

    def of(head: Head) -> Typed:
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("RAY_ADDRESS", head.address)
        for name, value in head.environment.items():
            monkeypatch.setenv(name, value)

        def run(*words: str, code: int = 0) -> Said:
            said = typed(*words)
            assert said.code == code, said.err
            return said

        return run

    return of


def job_file(tmp_path: Path, *, num_images: int = 300, seconds_per_image: float = 0.0, **compute: Any) -> str:
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(draw(tmp_path / "in", num_images))]},
        "models": [{"kind": "constant", "seconds_per_image": seconds_per_image}],
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"bundle_size": 20, "actors": 1, "cpus_per_actor": 1, **compute},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def wait_for_parts(out: Path, at_least: int) -> None:
    """Until the run has committed something. Nothing is decided by how long that takes."""
    for _ in range(1200):
        if len(list((out / "images").glob("*.parquet"))) >= at_least:
            return
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail("nothing was committed within two minutes")


def wait_for_driver(run: str, before: set[str]) -> tuple[psutil.Process, str]:
    """The `batchtag run` of a submission, and what it calls its run; not one of those before."""
    for _ in range(600):
        for process in psutil.process_iter(["cmdline"]):
            name = (process.info["cmdline"] or [""])[-1]
            if name.startswith(f"{run}.") and name not in before:
                return process, name
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail("no driver within a minute")


def images_counted(head: Head, run: str) -> float:
    """What Prometheus would read; the worker's last half second may not have been exported."""
    with urllib.request.urlopen(head.metrics) as page:
        lines = page.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("ray_batchtag_images_total{") and f'run="{run}.' in line
    )


def test_a_job_is_submitted_once_watched_and_its_tables_are_proven(
    ask: Callable[[Head], Typed], open_head: Head, tmp_path: Path
) -> None:
    tell, job, out = ask(open_head), job_file(tmp_path, seconds_per_image=0.01), tmp_path / "out"
    run = tell("submit", job).out.strip()
    again = tell("submit", job)
    assert (again.out.strip(), "is under way already" in again.err) == (run, True)
    tell("wait", run)
    assert 0 < images_counted(open_head, run) <= 300
    assert verify(str(out)).ok
    ((count, by),) = sql(out, "select count(*), any_value(run_id) from images")
    assert (count, str(by).partition(".")[0]) == (300, run)
    told = json.loads(tell("status", run, "--json").out)
    assert (told["state"], told["record"]["num_done"], told["exit_code"]) == ("done", 300, 0)
    assert tell("status", str(out)).out == f"{by}: done, 300 of 300 images\n"
    assert "nothing is left" not in tell("logs", run).out
    (listed,) = [one for one in json.loads(tell("list", "--json").out) if one["run_id"] == run]
    assert (listed["state"], listed["name"], listed["out"]) == ("done", "job", str(out))
    assert run in tell("list").out.replace("\n", "")
    later = tell("submit", job).out.strip()
    assert later == f"{run}-2"
    tell("wait", later)
    assert "nothing is left of the 300 images" in tell("logs", later, "-f").out


def test_a_cancelled_run_keeps_what_is_committed_gives_all_back_and_is_gone_on_with(
    ask: Callable[[Head], Typed], head: Head, tmp_path: Path
) -> None:
    tell, out = ask(head), tmp_path / "out"
    job = job_file(tmp_path, num_images=400, seconds_per_image=0.03)
    run = tell("submit", job).out.strip()
    wait_for_parts(out, 2)
    assert tell("cancel", run).out.startswith(f"{run}: cancelled, ")
    _, alive = psutil.wait_procs(head.workers(), timeout=30)
    assert alive == []
    committed = len(list((out / "images").glob("*.parquet")))
    assert 2 <= committed < 20
    tell("wait", run, code=130)
    again = tell("submit", job).out.strip()
    tell("wait", again, "-q")
    assert verify(str(out)).ok
    assert sql(out, "select split_part(run_id, '.', 1), count(*) from images group by 1 order by 1") == [
        (run, 20 * committed),
        (again, 400 - 20 * committed),
    ]


@pytest.mark.parametrize("token", ["wrong" * 8, ""])
def test_a_wrong_token_or_none_gets_one_clear_line(
    ask: Callable[[Head], Typed], head: Head, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = ask(head)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    refused = tell("list", code=1)
    said = "the token it was given" if token else "no token"
    assert refused.err == (
        f"batchtag: {head.address} does not accept {said}; set RAY_AUTH_TOKEN to the cluster's own\n"
    )
    assert refused.out == ""


def test_a_run_that_nobody_knows_and_a_cluster_that_is_not_there_get_one_line(
    ask: Callable[[Head], Typed], open_head: Head
) -> None:
    tell = ask(open_head)
    assert "knows no run batchtag-0" in tell("status", "batchtag-0", code=2).err
    absent = tell("list", "--address", "http://127.0.0.1:9", code=1)
    assert absent.err.startswith("batchtag: no Ray cluster answers at http://127.0.0.1:9")
    assert absent.err.count("\n") == 1


def test_a_dry_run_prints_the_request_and_sends_nothing(
    ask: Callable[[Head], Typed], open_head: Head, tmp_path: Path
) -> None:
    tell = ask(open_head)
    before = tell("list", "--json").out
    request = json.loads(tell("submit", job_file(tmp_path), "--dry-run").out)
    assert request["address"] == open_head.address
    assert request["placement"].startswith("1 worker on cpu (")
    assert ", 1 of 3 CPUs each, " in request["placement"]
    assert request["placement"].endswith("what an autoscaler may add, compute.may_grow_to tells")
    assert request["submission_id"].startswith("batchtag-")
    assert request["job.yaml"]["output"]["uri"] == str(tmp_path / "out")
    assert tell("list", "--json").out == before


def test_a_driver_that_is_killed_says_why_and_with_retries_the_run_goes_on(
    ask: Callable[[Head], Typed], open_head: Head, tmp_path: Path
) -> None:
    tell, out = ask(open_head), tmp_path / "out"
    job = job_file(tmp_path, num_images=400, seconds_per_image=0.03, retries=1)
    run = tell("submit", job).out.strip()
    killed: set[str] = set()
    for at_least in (2, 4):
        wait_for_parts(out, at_least)
        driver, name = wait_for_driver(run, killed)
        driver.kill()
        killed.add(name)
    ended = tell("wait", run, code=137)
    assert f"{run}: died" in ended.err
    assert "was killed by SIGKILL" in ended.err
    log = tell("logs", run).out
    assert len(killed) == 2
    assert all(f"the driver of {name} was killed by SIGKILL" in log for name in killed)
    assert "beginning again, 1 of 1 retries left" in log
    ((count, distinct),) = sql(out, "select count(*), count(distinct uri) from images")
    assert count == distinct

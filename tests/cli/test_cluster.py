"""`batchtag submit`, `list`, `status`, `logs`, `wait` and `cancel` against the dashboards of real Ray heads."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from batchtag.analysis.verify import verify
from batchtag.cli import cluster, watch
from batchtag.cluster.jobs import RayJob
from batchtag.errors import RunFailed
from batchtag.output.layout import Layout
from benchmarks.heads import Head
from tests.support.started import CommandResult, RunCommand, StartCommand
from tests.support.tables import query_tables, write_jpegs

ROOT = Path(__file__).parents[2]


RunOnHead = Callable[[Head], RunCommand]


@pytest.fixture
def run_on_head(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunOnHead:
    """Return a function that runs a command line against a head; notes of submissions go into a folder of the test."""

    def use(head: Head) -> RunCommand:
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("RAY_ADDRESS", head.address)
        for name, value in head.environment.items():
            monkeypatch.setenv(name, value)

        def run(*words: str, code: int = 0) -> CommandResult:
            result = run_command(*words)
            assert result.code == code, result.err
            return result

        return run

    return use


def write_job(tmp_path: Path, *, num_images: int = 300, seconds_per_image: float = 0.0, **compute: Any) -> str:
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(write_jpegs(tmp_path / "in", num_images))]},
        "models": [{"kind": "constant", "seconds_per_image": seconds_per_image}],
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"bundle_size": 20, "actors": 1, "cpus_per_actor": 1, **compute},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def wait_for_parts(out: Path, at_least: int) -> None:
    """Wait until the run has committed that many parts. No test depends on how long that takes."""
    for _ in range(1200):
        if len(list((out / "images").glob("*.parquet"))) >= at_least:
            return
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail("nothing was committed within two minutes")


def wait_for_driver(run: str, known: set[str]) -> tuple[psutil.Process, str]:
    """Wait for a driver of a submission whose run id is not in `known`; return its process and its run id."""
    for _ in range(600):
        for process in psutil.process_iter(["cmdline"]):
            name = (process.info["cmdline"] or [""])[-1]
            if name.startswith(f"{run}.") and name not in known:
                return process, name
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail("no driver within a minute")


def read_metrics(head: Head, run: str) -> dict[str, float]:
    """Return what Prometheus would read about a run, by metric. The last half second may not have been exported."""
    with urllib.request.urlopen(head.metrics) as page:
        lines = page.read().decode().splitlines()
    values: dict[str, float] = {}
    for line in lines:
        if line.startswith("ray_batchtag_") and f'run="{run}.' in line:
            name = line.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return values


def test_a_job_is_submitted_once_watched_and_verified(run_on_head: RunOnHead, open_head: Head, tmp_path: Path) -> None:
    batchtag, job, out = run_on_head(open_head), write_job(tmp_path, seconds_per_image=0.01), tmp_path / "out"
    run = batchtag("submit", job).out.strip()
    again = batchtag("submit", job)
    assert (again.out.strip(), "a run of this job is active already" in again.err) == (run, True)
    followed = batchtag("logs", run, "-f").out
    batchtag("wait", run)
    metrics = read_metrics(open_head, run)
    drawn = set(re.findall(r"ray_batchtag_\w+", (ROOT / "deploy" / "grafana.json").read_text()))
    gauges = {"ray_batchtag_bundles_in_progress", "ray_batchtag_images_waiting", "ray_batchtag_decode_workers"}
    assert drawn - metrics.keys() - gauges == {"ray_batchtag_failures_total"}, "nothing failed; gauges end with workers"
    assert 0 < metrics["ray_batchtag_images_total"] == metrics["ray_batchtag_tags_total"] <= 300
    assert metrics["ray_batchtag_fetched_bytes_total"] > 100 * metrics["ray_batchtag_images_total"]
    assert metrics["ray_batchtag_batches_total"] > 0
    assert verify(str(out)).ok
    ((count, run_id),) = query_tables(out, "select count(*), any_value(run_id) from images")
    assert (count, str(run_id).partition(".")[0]) == (300, run)
    status = json.loads(batchtag("status", run, "--json").out)
    assert (status["state"], status["record"]["num_done"], status["exit_code"]) == ("done", 300, 0)
    assert batchtag("status", str(out)).out == f"{run_id}: done, 300 of 300 images\n"
    assert "images listed on" not in followed
    assert followed == batchtag("logs", run).out, "every line once"
    assert "300 of 300 images" in followed
    (listed,) = [entry for entry in json.loads(batchtag("list", "--json").out) if entry["run_id"] == run]
    assert (listed["state"], listed["name"], listed["out"]) == ("done", "job", str(out))
    assert run in batchtag("list").out.replace("\n", "")
    later = batchtag("submit", job).out.strip()
    assert later == f"{run}-2"
    batchtag("wait", later)
    assert "all 300 images listed on " in batchtag("logs", later, "-f").out


@pytest.mark.slow
def test_a_cancelled_run_keeps_its_commits_releases_everything_and_is_resumed(
    run_on_head: RunOnHead, head: Head, tmp_path: Path
) -> None:
    batchtag, out = run_on_head(head), tmp_path / "out"
    job = write_job(tmp_path, num_images=400, seconds_per_image=0.03)
    run = batchtag("submit", job).out.strip()
    wait_for_parts(out, 2)
    cancelled_at, actors = time.monotonic(), head.list_run_processes()
    assert len(actors) >= 2, "a worker and the monitor"
    assert batchtag("cancel", run).out.startswith(f"{run}: cancelled, ")
    _, alive = psutil.wait_procs(actors, timeout=max(0.0, cancelled_at + 30 - time.monotonic()))
    assert (alive, head.list_run_processes()) == ([], [])
    assert time.monotonic() - cancelled_at <= 30, "seconds from the command to the end of all processes of the run"
    assert not Path(Layout(str(out)).lease).exists()
    committed = len(list((out / "images").glob("*.parquet")))
    assert 2 <= committed < 20
    batchtag("wait", run, code=130)
    again = batchtag("submit", job).out.strip()
    batchtag("wait", again, "-q")
    assert verify(str(out)).ok
    assert query_tables(out, "select split_part(run_id, '.', 1), count(*) from images group by 1 order by 1") == [
        (run, 20 * committed),
        (again, 400 - 20 * committed),
    ]


@pytest.mark.parametrize("token", ["wrong" * 8, ""])
def test_a_wrong_or_missing_token_is_reported_in_one_line(
    run_on_head: RunOnHead, head: Head, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batchtag = run_on_head(head)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    refused = batchtag("list", code=1)
    problem = "does not accept the token" if token else "requires a token, and none was given"
    assert refused.err == f"batchtag: {head.address} {problem}; set RAY_AUTH_TOKEN to the cluster's token\n"
    assert refused.out == ""


def test_the_address_of_the_head_s_gcs_leads_to_its_dashboard(
    start_command: StartCommand, run_on_head: RunOnHead, head: Head
) -> None:
    """Runs in a process of its own: Ray decides whether it uses tokens when it is imported."""
    listed = run_on_head(head)("list", "--json").out
    answer, messages = start_command("list", "--json", "--address", head.gcs).communicate(timeout=60)
    assert json.loads(answer) == json.loads(listed), messages


def test_an_unknown_run_and_an_absent_cluster_are_reported_in_one_line(run_on_head: RunOnHead, open_head: Head) -> None:
    batchtag = run_on_head(open_head)
    assert "does not know the run batchtag-0" in batchtag("status", "batchtag-0", code=2).err
    absent = batchtag("list", "--address", "http://127.0.0.1:9", code=1)
    assert absent.err.startswith("batchtag: no Ray cluster answers at http://127.0.0.1:9")
    assert absent.err.count("\n") == 1


def test_a_dry_run_prints_the_request_and_sends_nothing(
    run_on_head: RunOnHead, open_head: Head, tmp_path: Path
) -> None:
    batchtag = run_on_head(open_head)
    before = batchtag("list", "--json").out
    request = json.loads(batchtag("submit", write_job(tmp_path), "--dry-run").out)
    assert request["address"] == open_head.address
    assert request["placement"].startswith("1 worker on cpu (")
    assert ", 1 of 3 CPUs each, " in request["placement"]
    assert request["placement"].endswith("compute.may_grow_to names what an autoscaler may add")
    assert request["submission_id"].startswith("batchtag-")
    assert request["job.yaml"]["output"]["uri"] == str(tmp_path / "out")
    assert batchtag("list", "--json").out == before


def test_a_dry_run_fetches_no_weights_and_refuses_a_job_that_can_never_be_placed(
    run_on_head: RunOnHead, open_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", "/nowhere")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    batchtag, path = run_on_head(open_head), Path(write_job(tmp_path, cpus_per_actor=4))
    content = yaml.safe_load(path.read_text()) | {"models": [{"kind": "torchvision", "builder": "resnet50"}]}
    path.write_text(yaml.safe_dump(content))
    placement = json.loads(batchtag("submit", str(path), "--dry-run").out)["placement"]
    assert placement.startswith("none: compute asks for 1 actors x 4 CPUs, each on one machine of 3 CPUs"), placement
    assert placement.endswith("compute.may_grow_to names what an autoscaler may add")
    content["compute"]["may_grow_to"] = [{"nodes": 2, "cpus": 3}]
    path.write_text(yaml.safe_dump(content))
    refused = batchtag("submit", str(path), "--dry-run", code=2)
    assert "\nbatchtag: compute asks for 1 actors x 4 CPUs, each on one machine of 3, 3 CPUs" in refused.err
    content["compute"]["may_grow_to"] = [{"nodes": 2, "cpus": 8}]
    path.write_text(yaml.safe_dump(content))
    placement = json.loads(batchtag("submit", str(path), "--dry-run").out)["placement"]
    assert placement.startswith("1 worker on cpu ("), placement
    assert placement.endswith("; 1 of 3 nodes are running"), placement


@pytest.mark.slow
def test_a_killed_driver_is_reported_and_with_retries_restarted(
    run_on_head: RunOnHead, open_head: Head, tmp_path: Path
) -> None:
    batchtag, out = run_on_head(open_head), tmp_path / "out"
    job = write_job(tmp_path, num_images=400, seconds_per_image=0.03, retries=1)
    run = batchtag("submit", job).out.strip()
    killed: set[str] = set()
    for at_least in (2, 4):
        wait_for_parts(out, at_least)
        driver, name = wait_for_driver(run, killed)
        driver.kill()
        killed.add(name)
    ended = batchtag("wait", run, code=137)
    assert f"{run}: died, exit code 137, " in ended.err
    assert "was killed by SIGKILL" in ended.err
    assert "  batchtag: restarting, 1 of 1 retries remaining" in ended.err, "the last lines of its log"
    (died,) = [entry for entry in json.loads(batchtag("list", "--json").out) if entry["run_id"] == run]
    assert (died["state"], died["driver_exit_code"]) == ("died", 137)
    log = batchtag("logs", f"{run}.20261122000000").out
    assert len(killed) == 2
    assert all(f"the driver of {name} was killed by SIGKILL" in log for name in killed)
    assert "restarting, 1 of 1 retries remaining" in log
    ((count, distinct),) = query_tables(out, "select count(*), count(distinct uri) from images")
    assert count == distinct
    again = batchtag("submit", job).out.strip()
    driver, _ = wait_for_driver(again, set())
    wait_for_parts(out, len(list((out / "images").glob("*.parquet"))) + 1)
    driver.kill()
    batchtag("wait", again, "-q")
    assert verify(str(out)).ok


class UnreliableJobs:
    """A cluster that answers with these logs in turn, or not at all (None). With the last one, the run is over."""

    def __init__(self, *logs: str | None) -> None:
        self._logs = list(logs)

    def get_job(self, run_id: str) -> RayJob:
        is_last = len(self._logs) == 1
        return RayJob(run_id=run_id, status="SUCCEEDED" if is_last else "RUNNING", name="", out="", base="")

    def read_log(self, run_id: str) -> str:
        if (log := self._logs.pop(0)) is None:
            raise RunFailed("no Ray cluster answers at http://127.0.0.1:9")
        return log


def test_a_log_is_followed_across_failing_requests_but_not_for_ever(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(*logs: str | None, words: tuple[str, ...] = ("-f",)) -> CommandResult:
        jobs = UnreliableJobs(*logs)
        monkeypatch.setattr(cluster, "connect_jobs", lambda *_, **__: jobs)
        return run_command("logs", "batchtag-0", *words)

    monkeypatch.setattr(watch, "POLL_S", 0.0)
    result = follow("a\n", None, None, "a\nb", None, "a\nb\nc")
    assert result == (0, "a\nb\nc\n", "batchtag: asking again, because no Ray cluster answers at http://127.0.0.1:9\n")
    assert follow(None, "a\n", words=()).code == 1
    monkeypatch.setattr(watch, "LOST_AFTER_S", -1.0)
    assert follow("a\n", None, "a\nb\n")[:2] == (1, "a\n")

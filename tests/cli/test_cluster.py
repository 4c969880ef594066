"""Submit, list, status, logs, wait, cancel against the dashboards of real Ray heads."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from batchtag.analysis.verify import verify
from batchtag.cli import cluster as cli
from batchtag.cluster.history import Note, keep
from batchtag.cluster.jobs import RayJob
from batchtag.errors import RunFailed, StorageError
from batchtag.output.layout import Layout
from batchtag.runs.report import RunReport
from batchtag.runs.status import RunStatus, newest_run
from batchtag.storage.local import LocalStore
from benchmarks.heads import Head
from tests.integration.test_line import draw, sql
from tests.support.started import Said, Start, Typed

ROOT = Path(__file__).parents[2]


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


def counted(head: Head, run: str) -> dict[str, float]:
    """What Prometheus would read of a run, by metric; the worker's last half second may not have been exported."""
    with urllib.request.urlopen(head.metrics) as page:
        lines = page.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("ray_batchtag_") and f'run="{run}.' in line:
            name = line.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def test_a_job_is_submitted_once_watched_and_its_tables_are_proven(
    ask: Callable[[Head], Typed], open_head: Head, tmp_path: Path
) -> None:
    tell, job, out = ask(open_head), job_file(tmp_path, seconds_per_image=0.01), tmp_path / "out"
    run = tell("submit", job).out.strip()
    again = tell("submit", job)
    assert (again.out.strip(), "is under way already" in again.err) == (run, True)
    followed = tell("logs", run, "-f").out
    tell("wait", run)
    metrics = counted(open_head, run)
    drawn = set(re.findall(r"ray_batchtag_\w+", (ROOT / "deploy" / "grafana.json").read_text()))
    gauges = {"ray_batchtag_bundles_in_hand", "ray_batchtag_images_waiting", "ray_batchtag_openers"}
    assert drawn - metrics.keys() - gauges == {"ray_batchtag_failures_total"}, "nothing failed; gauges end with workers"
    assert 0 < metrics["ray_batchtag_images_total"] == metrics["ray_batchtag_tags_total"] <= 300
    assert metrics["ray_batchtag_fetched_bytes_total"] > 100 * metrics["ray_batchtag_images_total"]
    assert metrics["ray_batchtag_batches_total"] > 0
    assert verify(str(out)).ok
    ((count, by),) = sql(out, "select count(*), any_value(run_id) from images")
    assert (count, str(by).partition(".")[0]) == (300, run)
    told = json.loads(tell("status", run, "--json").out)
    assert (told["state"], told["record"]["num_done"], told["exit_code"]) == ("done", 300, 0)
    assert tell("status", str(out)).out == f"{by}: done, 300 of 300 images\n"
    assert "nothing is left" not in followed
    assert followed == tell("logs", run).out, "every line once"
    assert "300 of 300 images" in followed
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
    asked, actors = time.monotonic(), head.actors()
    assert len(actors) >= 2, "a worker and the monitor"
    assert tell("cancel", run).out.startswith(f"{run}: cancelled, ")
    _, alive = psutil.wait_procs(actors, timeout=max(0.0, asked + 30 - time.monotonic()))
    assert (alive, head.actors()) == ([], [])
    assert time.monotonic() - asked <= 30, "from the command to the end of all that the run had"
    assert not Path(Layout(str(out)).lease).exists()
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
    said = "does not accept the token it was given" if token else "wants a token, and none was given"
    assert refused.err == f"batchtag: {head.address} {said}; set RAY_AUTH_TOKEN to the cluster's own\n"
    assert refused.out == ""


def test_the_head_s_own_port_leads_to_its_dashboard(start: Start, ask: Callable[[Head], Typed], head: Head) -> None:
    """In a process of its own: whether there are tokens, Ray decides when it is imported."""
    listed = ask(head)("list", "--json").out
    said, story = start("list", "--json", "--address", head.gcs).communicate(timeout=60)
    assert json.loads(said) == json.loads(listed), story


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


def test_a_dry_run_fetches_no_weights_and_refuses_what_can_never_be_placed(
    ask: Callable[[Head], Typed], open_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", "/nowhere")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    tell, path = ask(open_head), Path(job_file(tmp_path, cpus_per_actor=4))
    content = yaml.safe_load(path.read_text()) | {"models": [{"kind": "torchvision", "builder": "resnet50"}]}
    path.write_text(yaml.safe_dump(content))
    told = json.loads(tell("submit", str(path), "--dry-run").out)["placement"]
    assert told.startswith("none: compute asks for 1 actors x 4 CPUs, each on one machine of 3 CPUs"), told
    assert told.endswith("compute.may_grow_to tells"), "an autoscaler may have a larger one"
    content["compute"]["may_grow_to"] = [{"nodes": 2, "cpus": 3}]
    path.write_text(yaml.safe_dump(content))
    refused = tell("submit", str(path), "--dry-run", code=2)
    assert "\nbatchtag: compute asks for 1 actors x 4 CPUs, each on one machine of 3, 3 CPUs" in refused.err
    content["compute"]["may_grow_to"] = [{"nodes": 2, "cpus": 8}]
    path.write_text(yaml.safe_dump(content))
    told = json.loads(tell("submit", str(path), "--dry-run").out)["placement"]
    assert told.startswith("1 worker on cpu ("), told
    assert told.endswith("; 1 of 3 nodes are there"), told


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
    assert f"{run}: died, exit code 137, " in ended.err
    assert "was killed by SIGKILL" in ended.err
    assert "  batchtag: beginning again, 1 of 1 retries left" in ended.err, "the last lines of its log"
    (died,) = [one for one in json.loads(tell("list", "--json").out) if one["run_id"] == run]
    assert (died["state"], died["driver_code"]) == ("died", 137)
    log = tell("logs", f"{run}.20261122000000").out
    assert len(killed) == 2
    assert all(f"the driver of {name} was killed by SIGKILL" in log for name in killed)
    assert "beginning again, 1 of 1 retries left" in log
    ((count, distinct),) = sql(out, "select count(*), count(distinct uri) from images")
    assert count == distinct
    again = tell("submit", job).out.strip()
    driver, _ = wait_for_driver(again, set())
    wait_for_parts(out, len(list((out / "images").glob("*.parquet"))) + 1)
    driver.kill()
    tell("wait", again, "-q")
    assert verify(str(out)).ok


def test_an_end_that_only_the_record_tells_must_stand_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that failed is begun again some seconds later; the cluster knows that, and is not always heard."""
    monkeypatch.setattr(cli, "POLL_S", 0.01)
    watched = cli._Watched("batchtag-0123456789ab", "", insecure=False)
    seen = iter([("running", True), ("failed", False), ("failed", False), ("running", True), ("done", True)])

    def look() -> RunStatus:
        state, watched._is_heard = next(seen)
        return RunStatus(run_id="batchtag-0123456789ab", state=state, out="")

    monkeypatch.setattr(watched, "look", look)
    assert watched.until_over(quiet=True).state == "done"
    monkeypatch.setattr(cli, "SURE_S", 0.05)
    seen = iter([("failed", False)] * 1000)
    assert watched.until_over(quiet=True).state == "failed"


def store_record(out: Path, state: str, **facts: Any) -> None:
    """As a run writes it; a later call is the same run later."""
    report = RunReport(run_id="r-1", out=str(out), started_at="2020-11-21T10:00:00+00:00", state=state, num_images=5)
    report.store(store=LocalStore(), layout=Layout(str(out)))
    record = Path(Layout(str(out)).run("r-1"))
    record.write_text(json.dumps(json.loads(record.read_text()) | facts))


def waited(
    watched: cli._Watched, before_each_look: Iterator[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> RunStatus:
    """What waiting ends with, when the world changes before each look."""
    look = watched.look

    def changed_look() -> RunStatus:
        next(before_each_look)()
        return look()

    monkeypatch.setattr(cli, "POLL_S", 0.0)
    monkeypatch.setattr(watched, "look", changed_look)
    return watched.until_over(quiet=True)


@pytest.mark.parametrize("end", ["done", "too_many_failures"])
def test_of_an_out_only_an_end_that_stays_is_believed_at_once(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver with retries begins again seconds after one that failed."""
    states = ("failed", "failed", "running", "interrupted", "running", end)
    watched = cli._Watched(str(tmp_path), "", insecure=False)
    changes = (partial(store_record, tmp_path, state) for state in states)
    assert waited(watched, changes, monkeypatch).state == end
    assert next(changes, None) is None


def test_a_clock_that_is_ahead_takes_no_live_run_for_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To it every record is old; but one that is written again is no dead run's."""
    monkeypatch.setattr(cli, "LOST_S", 0.0)
    watched = cli._Watched(str(tmp_path), "", insecure=False)
    written = [f"2020-11-21T10:00:0{second}+00:00" for second in range(5)]
    changes = [partial(store_record, tmp_path, "running", updated_at=when) for when in written]
    ended = [*changes, partial(store_record, tmp_path, "done")]
    assert waited(watched, iter(ended), monkeypatch).state == "done"
    with pytest.raises(RunFailed, match=r"nothing has been heard of .*: silent for "):
        waited(cli._Watched(str(tmp_path), "", insecure=False), iter([changes[0]] * 3), monkeypatch)


def test_a_store_that_does_not_answer_for_a_while_ends_no_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        def denied(*_: Any, **__: Any) -> None:
            raise StorageError("s3://tags: does not answer")

        monkeypatch.setattr("batchtag.runs.status.newest_run", denied)

    def answer() -> None:
        monkeypatch.setattr("batchtag.runs.status.newest_run", newest_run)
        store_record(tmp_path, "done")

    def run() -> None:
        store_record(tmp_path, "running")

    watched = cli._Watched(str(tmp_path), "", insecure=False)
    assert waited(watched, iter([run, fail, fail, answer]), monkeypatch).state == "done"
    fail()
    told = cli._Watched.look(watched)
    assert (told.state, told.is_over, told.trouble) == ("unknown", False, "s3://tags: does not answer")
    with pytest.raises(StorageError, match="does not answer"):
        cli._Watched(str(tmp_path), "", insecure=False).look()


def test_a_run_is_watched_to_its_end_as_json_too(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "POLL_S", 0.0)
    seen = iter(["running", "running", "done"])
    monkeypatch.setattr(cli._Watched, "look", lambda _: RunStatus(run_id="r-1", state=next(seen), out=""))
    said = typed("status", str(tmp_path), "--watch", "--json")
    assert (json.loads(said.out)["state"], next(seen, None)) == ("done", None)


class Shaky:
    """A cluster that answers with these logs in turn, or not at all; the last one is that of a run that is over."""

    def __init__(self, *logs: str | None) -> None:
        self._logs = list(logs)

    def get(self, run_id: str) -> RayJob:
        is_last = len(self._logs) == 1
        return RayJob(run_id=run_id, status="SUCCEEDED" if is_last else "RUNNING", name="", out="", base="")

    def log(self, run_id: str) -> str:
        if (log := self._logs.pop(0)) is None:
            raise RunFailed("no Ray cluster answers at http://127.0.0.1:9")
        return log


def test_a_log_is_followed_over_requests_that_fail_but_not_for_ever(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(*logs: str | None, words: tuple[str, ...] = ("-f",)) -> Said:
        cluster = Shaky(*logs)
        monkeypatch.setattr(cli, "_jobs_of", lambda *_: cluster)
        return typed("logs", "batchtag-0", *words)

    monkeypatch.setattr(cli, "POLL_S", 0.0)
    said = follow("a\n", None, None, "a\nb", None, "a\nb\nc")
    assert said == (0, "a\nb\nc\n", "batchtag: asking again, because no Ray cluster answers at http://127.0.0.1:9\n")
    assert follow(None, "a\n", words=()).code == 1
    monkeypatch.setattr(cli, "LOST_S", -1.0)
    assert follow("a\n", None, "a\nb\n")[:2] == (1, "a\n")


def test_out_is_read_the_way_the_job_says(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the note that `submit` left, and from what the cluster knows of the job: a MinIO is not found without."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    options, seen = {"client_kwargs": {"endpoint_url": "http://minio:9000"}}, []

    def open_store(uri: str, given: dict[str, Any] | None = None) -> LocalStore:
        seen.append((uri, given))
        return LocalStore()

    monkeypatch.setattr("batchtag.storage.open_store", open_store)
    keep(Note(run_id="batchtag-0", address="http://127.0.0.1:9", out="s3://tags/x", name="shelves", options=options))
    told = json.loads(typed("status", "batchtag-0", "--json").out)
    assert (told["state"], told["name"]) == ("unknown", "shelves")
    job = RayJob(run_id="batchtag-0", status="RUNNING", name="", out="s3://tags/y", base="", options=options)
    cli._stand("batchtag-0", "s3://tags/y", job)
    assert seen == [("s3://tags/x", options), ("s3://tags/y", options)]


def test_an_out_that_nothing_installed_can_open_is_told() -> None:
    job = RayJob(run_id="batchtag-0", status="RUNNING", name="", out="nosuch://tags", base="")
    one = cli._stand("batchtag-0", "nosuch://tags", job)
    assert one.out == "nosuch://tags"
    assert one.line().startswith("batchtag-0: running; its record cannot be read: ")


def test_a_run_of_which_nothing_is_heard_is_not_waited_for_for_ever(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver was killed and its cluster has gone: the note and the record alone would say "running" for ever."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(cli, "POLL_S", 0.01)
    monkeypatch.setattr(cli, "LOST_S", 0.05)
    out, run = str(tmp_path / "out"), "batchtag-0123456789ab"
    keep(Note(run_id=run, address="http://127.0.0.1:9", out=out, name="shelves"))
    report = RunReport(run_id=f"{run}.1", out=out, started_at="2020-11-21T10:00:00+00:00", num_images=5)
    report.store(store=LocalStore(), layout=Layout(out))
    record = Path(Layout(out).run(f"{run}.1"))
    old = json.loads(record.read_text()) | {"state": "running", "updated_at": "2020-11-21T10:00:00+00:00"}
    record.write_text(json.dumps(old))
    for words in (("wait", run), ("wait", "-q", run), ("status", "--watch", run), ("wait", out)):
        code, _, told = typed(*words)
        assert code == 1
        assert "batchtag: nothing has been heard of " in told
        assert ("by its record alone, because no Ray cluster answers at http://127.0.0.1:9" in told) == (run in words)

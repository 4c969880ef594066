"""Commands as a person types them: processes of their own, each with a private Ray."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from batchtag.analysis.verify import verify
from tests.integration.conftest import Tag
from tests.support.s3server import S3Server
from tests.support.started import RunCommand, StartCommand
from tests.support.tables import query_tables, write_jpegs

NUM_IMAGES, BUNDLE_SIZE = 200, 20
MODELS = [{"kind": "constant", "seconds_per_image": 0.02}]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job file that keeps its worker busy for some four seconds, in bundles of half a second."""
    path = tmp_path / "job.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(write_jpegs(tmp_path / "in", NUM_IMAGES))]},
        "models": MODELS,
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"bundle_size": BUNDLE_SIZE},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def count_parts(out: Path) -> int:
    return len(list((out / "images").glob("*.parquet"))) if (out / "images").exists() else 0


def wait_for_parts(process: subprocess.Popen[str], out: Path, *, at_least: int) -> None:
    """Wait until that many parts are committed. Fails the test if the process ends before."""
    for _ in range(600):
        if count_parts(out) >= at_least:
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended with {process.returncode} before {at_least} parts: {process.communicate()[1]}")
    pytest.fail(f"fewer than {at_least} parts within a minute")


def title_of(process: psutil.Process) -> str:
    """Return the command line of a process; "" if it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for_actors(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until the private Ray of this run has actors that tag, and return them."""
    for _ in range(600):
        children = psutil.Process(process.pid).children(recursive=True)
        actors = [child for child in children if title_of(child).startswith("ray::MapWorker")]
        if actors:
            return actors
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended with {process.returncode} before it had an actor: {process.communicate()[1]}")
    pytest.fail("no actor within a minute")


def test_ctrl_c_keeps_what_is_committed_and_leaves_no_process_and_the_same_job_continues(
    job: Path, start_command: StartCommand, tag: Tag, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupted = start_command("run", str(job))
    wait_for_parts(interrupted, out, at_least=1)
    family = psutil.Process(interrupted.pid).children(recursive=True)
    interrupted.send_signal(signal.SIGINT)
    _, stderr = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "same command to continue" in stderr
    assert f"of {NUM_IMAGES} images committed" in stderr
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    num_committed = BUNDLE_SIZE * count_parts(out)
    assert num_committed < NUM_IMAGES
    report = tag(str(tmp_path / "in"), str(out), models=MODELS)
    assert report.this_run["images"] == NUM_IMAGES - num_committed
    assert verify(str(out)).ok


@pytest.mark.slow
def test_actors_that_are_killed_are_replaced_and_no_image_is_lost_or_repeated(
    job: Path, start_command: StartCommand, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = start_command("run", str(job), "--json")
    for _ in range(2):
        wait_for_parts(run, out, at_least=count_parts(out) + 1)
        for actor in wait_for_actors(run):
            actor.kill()
    stdout, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    assert json.loads(stdout)["num_tagged"] == NUM_IMAGES
    assert verify(str(out)).ok
    counts = query_tables(out, "select count(*), count(distinct uri), count(distinct position) from images")
    assert counts == [(NUM_IMAGES, NUM_IMAGES, NUM_IMAGES)]


def test_a_bucket_is_tagged_verified_and_queried_with_credentials_of_the_environment(
    start_command: StartCommand,
    run_command: RunCommand,
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    images = write_jpegs(tmp_path / "in", 30)
    s3.put({f"{bucket}/2026/{path.name}": path.read_bytes() for path in images.iterdir()})
    s3.put({f"{bucket}/2026-old/0001.jpg": b"not under the prefix"})
    out = f"{bucket}/tags"
    words = ("run", f"{bucket}/2026", "--out", out, "--classifier", "constant", "--limit", "20", "--json")
    stdout, stderr = start_command(*words).communicate(timeout=100)
    assert json.loads(stdout)["num_tagged"] == 20, stderr
    verified = run_command("verify", out)
    assert "20 tagged + 0 failed + 0 duplicate of 20 images" in verified.out, verified.err
    counted = run_command("query", out, "select count(*) as n, min(uri) as first from images", "--json")
    assert json.loads(counted.out) == {"n": 20, "first": f"{bucket}/2026/0000.jpg"}, counted.err

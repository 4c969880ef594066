"""The commands as a person types them: processes of their own, each with a private Ray."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from batchtag.analysis.verify import verify
from tests.integration.test_line import draw, sql
from tests.support.s3server import S3Server
from tests.support.started import Start, Typed

NUM_IMAGES = 400


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job that keeps its worker busy for some ten seconds, in bundles of one."""
    path = tmp_path / "job.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(draw(tmp_path / "in", NUM_IMAGES))]},
        "models": [{"kind": "constant", "seconds_per_image": 0.02}],
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"bundle_size": 40},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def num_parts(out: Path) -> int:
    return len(list((out / "images").glob("*.parquet"))) if (out / "images").exists() else 0


def wait_for_parts(process: subprocess.Popen[str], out: Path, *, at_least: int) -> None:
    """Until so many parts are committed; fails the test if the process ends before."""
    for _ in range(600):
        if num_parts(out) >= at_least:
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended with {process.returncode} before {at_least} parts: {process.communicate()[1]}")
    pytest.fail(f"no {at_least} parts within a minute")


def title(process: psutil.Process) -> str:
    """Its command line; "" if it has gone meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for_actors(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The actors of this run's own Ray, once there are any."""
    for _ in range(600):
        found = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if title(child).startswith("ray::MapWorker")
        ]
        if found:
            return found
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended with {process.returncode} before it had an actor: {process.communicate()[1]}")
    pytest.fail("no actor within a minute")


def test_ctrl_c_keeps_what_is_committed_says_how_to_go_on_and_leaves_no_process(
    job: Path, start: Start, tmp_path: Path
) -> None:
    """In a run whose actors were killed before. Everything else that may die does so in `test_chaos.py`."""
    out = tmp_path / "out"
    first = start("run", str(job))
    wait_for_parts(first, out, at_least=1)
    for actor in wait_for_actors(first):
        actor.kill()
    wait_for_parts(first, out, at_least=num_parts(out) + 1)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGINT)
    _, story = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "same command goes on" in story
    assert f"of {NUM_IMAGES} images committed" in story
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    committed = num_parts(out)
    second = start("run", str(job), "--json")
    answer, story = second.communicate(timeout=120)
    assert second.returncode == 0, story
    assert f'"images": {NUM_IMAGES - 40 * committed}' in answer
    assert verify(str(out)).ok
    found = sql(out, "select count(*), count(distinct uri), count(distinct position) from images")
    assert found == [(NUM_IMAGES, NUM_IMAGES, NUM_IMAGES)]


def test_a_bucket_is_tagged_with_what_the_environment_knows_of_it(
    start: Start, typed: Typed, s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    images = draw(tmp_path / "in", 30)
    s3.put({f"{bucket}/2026/{path.name}": path.read_bytes() for path in images.iterdir()})
    s3.put({f"{bucket}/2026-old/0001.jpg": b"not under the prefix"})
    out = f"{bucket}/tags"
    words = ("run", f"{bucket}/2026", "--out", out, "--classifier", "constant", "--limit", "20", "--json")
    answer, story = start(*words).communicate(timeout=120)
    assert json.loads(answer)["num_tagged"] == 20, story
    verified = typed("verify", out)
    assert "20 tagged + 0 failed + 0 duplicate of 20 images" in verified.out, verified.err
    found = typed("query", out, "select count(*) as n, min(uri) as first from images", "--json")
    assert json.loads(found.out) == {"n": 20, "first": f"{bucket}/2026/0000.jpg"}, found.err

"""A cluster of fake machines, by the autoscaler of real ones; `benchmarks.autoscaling` is the long form."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from batchtag.analysis.verify import verify
from benchmarks.autoscaling import head, job, num_raylets
from tests.integration.test_line import draw
from tests.support.started import Start


def test_a_job_for_gpus_brings_nodes_to_a_head_that_is_alone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts nodes for actors that wait, if all are asked for at once (ray #59144). The token at home is another
    cluster's."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of another cluster")
    draw(tmp_path / "images", 300)
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as short, head(Path(short), 2) as process:
        assert num_raylets(process) == 1
        run = start("run", str(job(tmp_path, tmp_path / "out", 2)), "--json")
        most, until = 1, time.monotonic() + 180
        while run.poll() is None:
            assert process.poll() is None, "the head has ended"
            assert time.monotonic() < until, "the run does not end"
            most = max(most, num_raylets(process))
            with suppress(psutil.TimeoutExpired):
                process.wait(timeout=0.2)
        answer, story = run.communicate()
        assert run.returncode == 0, story
        assert most >= 3, "the head, and both nodes with GPUs"
    assert json.loads(answer)["placement"].startswith("2 workers on cuda")
    assert verify(str(tmp_path / "out")).ok

"""A cluster of fake machines grows for a job, by the autoscaler that starts real ones.

`benchmarks.autoscaling` is the long form.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from batchtag.analysis.verify import verify
from benchmarks.autoscaling import count_raylets, run_autoscaling_head, write_job
from tests.support.started import StartCommand
from tests.support.tables import write_jpegs

LIMIT_S = 180


@pytest.mark.slow
def test_a_job_for_gpus_starts_nodes_on_a_cluster_that_has_only_a_head(
    start_command: StartCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts nodes for waiting actors only if all actors are requested at once (ray #59144).

    The token in the home folder belongs to another cluster and must not be used.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of another cluster")
    write_jpegs(tmp_path / "images", 300)
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as folder, run_autoscaling_head(Path(folder), 2) as head:
        assert count_raylets(head) == 1
        run = start_command("run", str(write_job(tmp_path, tmp_path / "out", 2)), "--json")
        max_raylets, ends_at = 1, time.monotonic() + LIMIT_S
        while run.poll() is None:
            assert head.poll() is None, "the head has ended"
            assert time.monotonic() < ends_at, "the run does not end"
            max_raylets = max(max_raylets, count_raylets(head))
            with suppress(psutil.TimeoutExpired):
                head.wait(timeout=0.2)
        stdout, stderr = run.communicate()
        assert run.returncode == 0, stderr
        assert max_raylets >= 3, "the head, and both nodes with GPUs"
    assert json.loads(stdout)["placement"].startswith("2 workers on cuda")
    assert verify(str(tmp_path / "out")).ok

"""What Ray's Jobs API does when it is not simply obliging, each tried on a real head."""

from __future__ import annotations

import os
import sys
import venv
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from batchtag.cluster.address import Cluster, cluster_at
from batchtag.cluster.jobs import Jobs, RayJob
from batchtag.cluster.submission import Submission, make_submission
from batchtag.cluster.watching import standing
from batchtag.errors import RunFailed
from batchtag.spec import make_spec
from batchtag.storage.local import LocalStore
from benchmarks.heads import Head, ray_head
from tests.line.test_line import draw

from .tls import certificate, tls_proxy


def submission(tmp_path: Path, **compute: Any) -> Submission:
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(draw(tmp_path / "in", 20))]},
        "models": [{"kind": "constant"}],
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"cpus_per_actor": 1, "actors": 1, **compute},
    }
    return make_submission(make_spec(content, origin="test"), name="job")


def ended(jobs: Jobs, run_id: str) -> RayJob:
    for _ in range(600):
        job = jobs.get(run_id)
        if job.is_over:
            return job
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail(f"{run_id} did not end within a minute")


def test_ray_s_variables_do_not_lead_elsewhere(open_head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client prefers either of them to the address that it is given."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert len(set(Jobs(cluster_at(open_head.address)).versions())) == 1
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9", "and they stay as they were"


def test_who_submits_at_the_same_moment_finds_the_run_of_the_other(
    open_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray answers an id that is taken with 500; two that looked before either had submitted would both send."""
    jobs, sent = Jobs(cluster_at(open_head.address)), submission(tmp_path)
    first, is_new = jobs.submit(sent)
    assert is_new
    seen, looks = jobs.all, iter([list])
    monkeypatch.setattr(jobs, "all", lambda: next(looks, seen)())
    second, is_new = jobs.submit(sent)
    assert (second.run_id, is_new) == (first.run_id, False)
    assert ended(jobs, first.run_id).exit_code == 0


def test_an_image_with_another_version_is_told_and_nothing_runs(open_head: Head, tmp_path: Path) -> None:
    jobs = Jobs(cluster_at(open_head.address))
    other = replace(submission(tmp_path, package="image"), expects="99.0")
    run, _ = jobs.submit(other)
    assert ended(jobs, run.run_id).exit_code == 2
    assert "and the job was submitted with 99.0; install the same" in jobs.log(run.run_id)
    assert not (tmp_path / "out").exists()


def test_a_requirement_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    """Ray copies the environment that it runs in, three times if need be: so this head has a small one."""
    venv.create(tmp_path / "small")
    library = next((tmp_path / "small").glob("lib/*/site-packages"))
    (library / "all.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = str(tmp_path / "small" / "bin" / "python")
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as name, ray_head(Path(name), python=python) as head:
        jobs = Jobs(cluster_at(head.address))
        run, _ = jobs.submit(submission(tmp_path, pip=["/nowhere/absent-1.0-py3-none-any.whl"]))
        over = ended(jobs, run.run_id)
        told = standing(run.run_id, out=str(tmp_path / "out"), store=LocalStore(), job=over)
    assert told.line() == (
        f"{run.run_id}: died: compute.pip could not be installed on the cluster: Could not install packages due to an "
        "OSError: [Errno 2] No such file or directory: '/nowhere/absent-1.0-py3-none-any.whl'"
    )


def test_a_package_that_ray_does_not_take_is_told(open_head: Head, tmp_path: Path) -> None:
    """Ray's documents say 512 MiB; its Jobs API ends at 100."""
    large = tmp_path / "large"
    large.mkdir()
    (large / "__init__.py").touch()
    (large / "weights.bin").write_bytes(os.urandom(101 * 2**20))
    sent = submission(tmp_path)
    sent = replace(sent, runtime_env={**sent.runtime_env, "py_modules": [str(large)]})
    with pytest.raises(RunFailed, match=r"takes no package that large \(Ray's limit is 100 MiB\)"):
        Jobs(cluster_at(open_head.address)).submit(sent)


def test_the_package_is_far_from_ray_s_limit(tmp_path: Path) -> None:
    (package,) = submission(tmp_path).runtime_env["py_modules"]
    files = [path for path in Path(package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 30 * 2**20


def test_a_cluster_behind_a_proxy_with_tls_is_spoken_to_with_its_token(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = certificate(tmp_path / "proxy.pem")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    with tls_proxy(head.address, known) as address:
        untrusted = (
            r"^the certificate of https://localhost:\d+ is not trusted here \(self-signed certificate\); REQUESTS_CA"
        )
        with pytest.raises(RunFailed, match=untrusted):
            Jobs(cluster_at(address))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(known))
        jobs = Jobs(cluster_at(address))
        run, _ = jobs.submit(submission(tmp_path))
        assert ended(jobs, run.run_id).exit_code == 0
        assert "20 of 20 images" in jobs.log(run.run_id)
        with pytest.raises(RunFailed, match="does not accept the token it was given"):
            Jobs(Cluster(address=address, token="wrong" * 8))

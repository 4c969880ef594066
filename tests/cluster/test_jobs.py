"""What Ray's Jobs API does when it is not simply obliging, each tried on a real head."""

from __future__ import annotations

import os
import sys
import venv
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests

from batchtag.cluster import jobs as ray_jobs
from batchtag.cluster.address import Cluster, cluster_at
from batchtag.cluster.jobs import Jobs, RayJob
from batchtag.cluster.submission import Submission, make_submission
from batchtag.config.job import make_spec
from batchtag.errors import BatchtagError, RunFailed, UsageError
from batchtag.runs.status import run_status
from batchtag.storage.local import LocalStore
from benchmarks.heads import Head, ray_head
from tests.integration.test_line import draw

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


class Asked(list[dict[str, Any]]):
    """What a client asked for, each with the answer that any cluster gives to the question for its version."""

    def __call__(self, method: str, url: str, **options: Any) -> requests.Response:
        self.append({"method": method, "url": url, **options})
        answer = requests.Response()
        answer.status_code, answer._content = 200, b'{"ray_version": "2.60.0"}'
        return answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    one = Asked()
    monkeypatch.setattr(requests, "request", one)
    return one


def test_a_question_is_given_up_soon_and_an_upload_has_time(asked: Asked) -> None:
    """`status` asks every two seconds. A slow line sends a package for minutes; urllib3 takes that for connecting."""
    jobs = Jobs(cluster_at("http://127.0.0.1:8265"))
    jobs._client._do_request("PUT", "/api/packages/gcs/x.zip", data=b"x")
    *questions, upload = asked
    assert {question["timeout"] for question in questions} == {(5.0, 60.0)}
    assert (upload["method"], upload["timeout"]) == ("PUT", (600.0, 600.0))


def test_no_proxy_stands_between_this_machine_and_itself(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would see the token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(set(Jobs(cluster_at(head.address)).versions())) == 1


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379", "ray://127.0.0.1:10001"])
def test_the_token_does_not_go_where_a_head_sends_it_if_that_is_not_safe(
    address: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.dashboard.utils.get_address_for_submission_client", lambda _: "http://192.0.2.1:8265")
    with pytest.raises(UsageError, match=r"^http://192.0.2.1:8265 is neither TLS nor this machine"):
        Jobs(cluster_at(address))
    assert asked == []
    Jobs(cluster_at(address, insecure=True))
    assert asked[0]["url"] == "http://192.0.2.1:8265/api/version"


@pytest.mark.parametrize(("token", "mode"), [("t" * 32, "token"), ("", "disabled")])
def test_a_token_is_shown_through_ray_s_client_too(
    token: str, mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modes = []

    def resolve(address: str) -> str:
        modes.append(os.environ["RAY_AUTH_MODE"])
        raise ConnectionError(address)

    monkeypatch.setattr("ray.dashboard.utils.get_address_for_submission_client", resolve)  # imports Ray as it is here
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(RunFailed, match=r"no Ray cluster answers at ray://127.0.0.1:10001"):
        Jobs(cluster_at("ray://127.0.0.1:10001"))
    assert modes == [mode]


def refused(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("as requests words it", response=answer)


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("http://127.0.0.1:40123", ConnectionError("Failed to connect to http://127.0.0.1:40123"), "no Ray cluster"),
        ("http://127.0.0.1:40400", ConnectionError("Failed to connect to http://127.0.0.1:40400"), "no Ray cluster"),
        ("https://ray-403.acme.io", ConnectionError("Failed to connect to https://ray-403.acme"), "no Ray cluster"),
        ("https://ray.acme.io", RuntimeError("Request failed with status code 403: no"), "does not accept the token"),
        ("https://ray.acme.io", refused(401), "does not accept the token"),
        ("https://ray.acme.io", refused(404), "knows no run batchtag-0"),
        ("https://ray.acme.io", RuntimeError("Request failed with status code 413: no"), "takes no package that large"),
        (
            "https://ray.acme.io",
            RuntimeError("Request failed with status code 500: /tmp/413 already exists. 404 Failed to connect"),
            "RuntimeError: Request failed with status code 500",
        ),
    ],
)
def test_an_answer_is_known_by_its_status_not_by_digits_or_words_in_it(
    address: str, error: Exception, words: str
) -> None:
    ours = ray_jobs._ours(error, Cluster(address=address, token="t"), "batchtag-0")
    assert words in ours.message
    assert ours.message.count(address) >= 1
    assert not isinstance(ours, ray_jobs._Taken)


def test_a_token_that_is_missing_is_not_called_a_wrong_one() -> None:
    ours: BatchtagError = ray_jobs._ours(refused(401), Cluster(address="https://ray.acme.io"), "")
    assert ours.message == (
        "https://ray.acme.io wants a token, and none was given; set RAY_AUTH_TOKEN to the cluster's own"
    )


def test_what_a_submission_wrote_is_read_back_and_what_others_wrote_does_no_harm(tmp_path: Path) -> None:
    options = {"client_kwargs": {"endpoint_url": "http://minio:9000"}}
    content = submission(tmp_path).job
    content["output"]["storage_options"] = options
    metadata = make_submission(make_spec(content, origin="test"), name="job").metadata

    def job(facts: dict[str, str] | None) -> RayJob:
        times = {"start_time": None, "end_time": None}
        about = {"status": "RUNNING", "message": "", "driver_exit_code": None, "submission_id": "x"}
        return ray_jobs._job(SimpleNamespace(metadata=facts, **about, **times))

    one = job(metadata)
    assert (one.name, one.out, one.options) == ("job", str(tmp_path / "out"), options)
    assert one.base.startswith("batchtag-")
    assert [job(facts).options for facts in (None, {}, {"options": "{"}, {"options": "[1]"})] == [{}, {}, {}, {}]


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
        told = run_status(run.run_id, out=str(tmp_path / "out"), store=LocalStore(), job=over)
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

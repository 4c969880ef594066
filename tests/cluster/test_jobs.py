"""Ray's Jobs API in unusual situations, most of them against a real head."""

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

from batchtag.cluster.address import Cluster, resolve_cluster
from batchtag.cluster.job_errors import SubmissionIdTaken, translate_error
from batchtag.cluster.jobs import ClusterJobs, RayJob, parse_job
from batchtag.cluster.submission import Submission, make_submission
from batchtag.config.job import make_spec
from batchtag.errors import BatchtagError, RunFailed, UsageError
from batchtag.runs.status import read_status
from batchtag.storage.local import LocalStore
from benchmarks.heads import Head, run_ray_head
from tests.support.tables import write_jpegs

from .tls import make_certificate, tls_proxy


def make_job_submission(tmp_path: Path, **compute: Any) -> Submission:
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(write_jpegs(tmp_path / "in", 20))]},
        "models": [{"kind": "constant"}],
        "output": {"uri": str(tmp_path / "out")},
        "compute": {"cpus_per_actor": 1, "actors": 1, **compute},
    }
    return make_submission(make_spec(content, origin="test"), name="job")


def wait_until_over(jobs: ClusterJobs, run_id: str) -> RayJob:
    for _ in range(600):
        job = jobs.get_job(run_id)
        if job.is_over:
            return job
        psutil.Process().cpu_percent(interval=0.1)
    pytest.fail(f"{run_id} did not end within a minute")


class RecordedRequests(list[dict[str, Any]]):
    """The requests of a client; each is answered as a cluster answers the request for its version."""

    def __call__(self, method: str, url: str, **options: Any) -> requests.Response:
        self.append({"method": method, "url": url, **options})
        answer = requests.Response()
        answer.status_code, answer._content = 200, b'{"ray_version": "2.60.0"}'
        return answer


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedRequests:
    requests_made = RecordedRequests()
    monkeypatch.setattr(requests, "request", requests_made)
    return requests_made


def test_requests_have_short_timeouts_and_uploads_long_ones(recorded: RecordedRequests) -> None:
    """`status` asks every two seconds. Sending a package may take minutes, which urllib3 counts as connecting."""
    jobs = ClusterJobs(resolve_cluster("http://127.0.0.1:8265"))
    jobs._client._do_request("PUT", "/api/packages/gcs/x.zip", data=b"x")
    *queries, upload = recorded
    assert {query["timeout"] for query in queries} == {(5.0, 60.0)}
    assert (upload["method"], upload["timeout"]) == ("PUT", (600.0, 600.0))


def test_a_head_on_this_machine_is_reached_without_the_web_proxy(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy would see the token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(set(ClusterJobs(resolve_cluster(head.address)).versions())) == 1


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379", "ray://127.0.0.1:10001"])
def test_the_token_is_not_sent_to_an_unsafe_address_that_a_head_names(
    address: str, recorded: RecordedRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.dashboard.utils.get_address_for_submission_client", lambda _: "http://192.0.2.1:8265")
    with pytest.raises(UsageError, match=r"^http://192.0.2.1:8265 is neither TLS nor this machine"):
        ClusterJobs(resolve_cluster(address))
    assert recorded == []
    ClusterJobs(resolve_cluster(address, is_insecure=True))
    assert recorded[0]["url"] == "http://192.0.2.1:8265/api/version"


@pytest.mark.parametrize(("token", "mode"), [("t" * 32, "token"), ("", "disabled")])
def test_ray_s_own_client_uses_the_token_too(
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
        ClusterJobs(resolve_cluster("ray://127.0.0.1:10001"))
    assert modes == [mode]


def refused(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("as requests words it", response=answer)


@pytest.mark.parametrize(
    ("address", "error", "expected"),
    [
        ("http://127.0.0.1:40123", ConnectionError("Failed to connect to http://127.0.0.1:40123"), "no Ray cluster"),
        ("http://127.0.0.1:40400", ConnectionError("Failed to connect to http://127.0.0.1:40400"), "no Ray cluster"),
        ("https://ray-403.acme.io", ConnectionError("Failed to connect to https://ray-403.acme"), "no Ray cluster"),
        ("https://ray.acme.io", RuntimeError("Request failed with status code 403: no"), "does not accept the token"),
        ("https://ray.acme.io", refused(401), "does not accept the token"),
        ("https://ray.acme.io", refused(404), "does not know the run batchtag-0"),
        (
            "https://ray.acme.io",
            RuntimeError("Request failed with status code 413: no"),
            "the package is larger than Ray",
        ),
        (
            "https://ray.acme.io",
            RuntimeError("Request failed with status code 500: /tmp/413 already exists. 404 Failed to connect"),
            "RuntimeError: Request failed with status code 500",
        ),
    ],
)
def test_an_error_is_recognised_by_its_http_status_not_by_digits_or_words_in_its_text(
    address: str, error: Exception, expected: str
) -> None:
    ours = translate_error(error, Cluster(address=address, token="t"), run_id="batchtag-0")
    assert expected in ours.message
    assert ours.message.count(address) >= 1
    assert not isinstance(ours, SubmissionIdTaken)


def test_a_missing_token_is_not_reported_as_a_wrong_one() -> None:
    ours: BatchtagError = translate_error(refused(401), Cluster(address="https://ray.acme.io"), run_id="")
    assert ours.message == (
        "https://ray.acme.io requires a token, and none was given; set RAY_AUTH_TOKEN to the cluster's token"
    )


def test_the_metadata_of_a_submission_is_read_back_and_foreign_metadata_is_ignored(tmp_path: Path) -> None:
    options = {"client_kwargs": {"endpoint_url": "http://minio:9000"}}
    content = make_job_submission(tmp_path).job
    content["output"]["storage_options"] = options
    metadata = make_submission(make_spec(content, origin="test"), name="job").metadata

    def job(facts: dict[str, str] | None) -> RayJob:
        times = {"start_time": None, "end_time": None}
        about = {"status": "RUNNING", "message": "", "driver_exit_code": None, "submission_id": "x"}
        return parse_job(SimpleNamespace(metadata=facts, **about, **times))

    parsed = job(metadata)
    assert (parsed.name, parsed.out, parsed.options) == ("job", str(tmp_path / "out"), options)
    assert parsed.base.startswith("batchtag-")
    assert [job(facts).options for facts in (None, {}, {"options": "{"}, {"options": "[1]"})] == [{}, {}, {}, {}]


def test_ray_s_environment_variables_do_not_override_the_address(
    open_head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own client prefers either of them to the address that it is given."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert len(set(ClusterJobs(resolve_cluster(open_head.address)).versions())) == 1
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9", "the variables stay as they were"


def test_two_submissions_of_one_job_at_the_same_moment_find_the_same_run(
    open_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both list the runs before either has submitted, so both send; Ray answers the second id with 500."""
    jobs, sent = ClusterJobs(resolve_cluster(open_head.address)), make_job_submission(tmp_path)
    first, is_new = jobs.submit(sent)
    assert is_new
    list_jobs, first_answers = jobs.list_jobs, iter([list])
    monkeypatch.setattr(jobs, "list_jobs", lambda: next(first_answers, list_jobs)())
    second, is_new = jobs.submit(sent)
    assert (second.run_id, is_new) == (first.run_id, False)
    assert wait_until_over(jobs, first.run_id).exit_code == 0


def test_an_image_with_another_version_is_reported_and_nothing_runs(open_head: Head, tmp_path: Path) -> None:
    jobs = ClusterJobs(resolve_cluster(open_head.address))
    other = replace(make_job_submission(tmp_path, package="image"), expected_version="99.0")
    run, _ = jobs.submit(other)
    assert wait_until_over(jobs, run.run_id).exit_code == 2
    assert "and the job was submitted with 99.0; install the same version" in jobs.read_log(run.run_id)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_requirement_that_pip_cannot_install_is_reported(tmp_path: Path) -> None:
    """Ray copies the environment that it runs in, up to three times, so this head gets a small one."""
    venv.create(tmp_path / "small")
    library = next((tmp_path / "small").glob("lib/*/site-packages"))
    (library / "all.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = str(tmp_path / "small" / "bin" / "python")
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as name, run_ray_head(Path(name), python=python) as head:
        jobs = ClusterJobs(resolve_cluster(head.address))
        run, _ = jobs.submit(make_job_submission(tmp_path, pip=["/nowhere/absent-1.0-py3-none-any.whl"]))
        job = wait_until_over(jobs, run.run_id)
        status = read_status(run.run_id, out=str(tmp_path / "out"), store=LocalStore(), job=job)
    assert status.summary_line() == (
        f"{run.run_id}: died: compute.pip could not be installed on the cluster: Could not install packages due to an "
        "OSError: [Errno 2] No such file or directory: '/nowhere/absent-1.0-py3-none-any.whl'"
    )


def test_a_package_above_ray_s_limit_is_reported(open_head: Head, tmp_path: Path) -> None:
    """The limit is 512 MiB in Ray's documents, and 100 MiB in its Jobs API."""
    large = tmp_path / "large"
    large.mkdir()
    (large / "__init__.py").touch()
    (large / "weights.bin").write_bytes(os.urandom(101 * 2**20))
    sent = make_job_submission(tmp_path)
    sent = replace(sent, runtime_env={**sent.runtime_env, "py_modules": [str(large)]})
    with pytest.raises(RunFailed, match="the package is larger than Ray's limit of 100 MiB"):
        ClusterJobs(resolve_cluster(open_head.address)).submit(sent)


def test_the_package_is_far_below_ray_s_limit(tmp_path: Path) -> None:
    (package,) = make_job_submission(tmp_path).runtime_env["py_modules"]
    files = [path for path in Path(package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 30 * 2**20


def test_a_cluster_behind_a_tls_proxy_is_reached_with_its_token(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path / "proxy.pem")
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    with tls_proxy(head.address, certificate) as address:
        untrusted = r"^the certificate of https://localhost:\d+ is not trusted here \(self-signed certificate\); if it"
        with pytest.raises(RunFailed, match=untrusted):
            ClusterJobs(resolve_cluster(address))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        jobs = ClusterJobs(resolve_cluster(address))
        run, _ = jobs.submit(make_job_submission(tmp_path))
        assert wait_until_over(jobs, run.run_id).exit_code == 0
        assert "20 of 20 images" in jobs.read_log(run.run_id)
        with pytest.raises(RunFailed, match="does not accept the token"):
            ClusterJobs(Cluster(address=address, token="wrong" * 8))

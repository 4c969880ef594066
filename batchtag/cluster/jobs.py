"""Ray's Jobs API, with its errors in our words. One HTTP request per call; runs on the laptop.

Behaviour of Ray 2.60 that this module works around, each observed on a real head: RAY_ADDRESS and
RAY_API_SERVER_ADDRESS override the address that a client is given, so they are hidden from it. A submission id that is
taken is answered with 500 and "already exists". Stopping a job that waits for resources reports success and does
nothing, so the driver of a job requests no resources. A client waits for an answer for ever, so every request gets a
timeout.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchtag.cluster.address import Cluster, is_this_machine, resolve_cluster
from batchtag.cluster.auth import detect_auth_mode
from batchtag.cluster.job_errors import SubmissionIdTaken, translate_error
from batchtag.cluster.machines import Machine
from batchtag.cluster.submission import JOB_FILE, Submission
from batchtag.errors import BatchtagError, RunFailed

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_NUM_LAST_LINES = 12
_ANSWER_TIMEOUT_S = (5.0, 60.0)
"""Seconds to wait for a connection, and between two pieces of an answer. `status` asks again and again, also a cluster
that has ended."""
_UPLOAD_TIMEOUT_S = (600.0, 600.0)
"""The same for the upload of a package, one request: urllib3 makes the connection timeout cover sending all of
it (observed)."""
_OVERRIDING_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What Ray knows about a run. `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; times are epoch
    seconds."""

    run_id: str
    status: str
    name: str
    out: str
    base: str
    """The id that all submissions of the same job to the same output share."""
    options: dict[str, Any] = field(default_factory=dict)
    """The job's `output.storage_options`, without which OUT may be out of reach."""
    message: str = ""
    exit_code: int | None = None
    """The exit code of the driver, once it has ended."""
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the driver has ended."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class ClusterJobs:
    """The runs of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Ask the cluster for its version. Raises RunFailed if it does not answer, or refuses to.

        Raises UsageError if its head names a dashboard address that is not safe.
        """
        self._cluster = cluster
        with self._translated_errors():
            self._client = _make_client(_resolve_dashboard(cluster))

    def versions(self) -> tuple[str, str]:
        """Return the version of Ray here, and on the cluster."""
        import ray

        with self._translated_errors():
            return ray.__version__, str(self._client._server_ray_version)

    def list_machines(self) -> list[Machine]:
        """Return the nodes that are alive now, from the dashboard's state API."""
        with self._translated_errors():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=true&limit=10000")
            answer.raise_for_status()
            rows = answer.json()["data"]["result"]["result"]
        resources = [row["resources_total"] or {} for row in rows if row["state"] == "ALIVE"]
        return [Machine(cpus=float(totals.get("CPU", 0)), gpus=float(totals.get("GPU", 0))) for totals in resources]

    def submit(self, submission: Submission) -> tuple[RayJob, bool]:
        """Send a job unless a run of it is active. Returns the active or the new run, and whether it is new."""
        attempt = 0
        while True:
            # 1. A run of the same job that is not over is the answer.
            earlier = [job for job in self.list_jobs() if job.base == submission.base_id]
            for job in earlier:
                if not job.is_over:
                    return job, False
            # 2. Else the next free id. It is taken if another user submitted the same job a moment ago (then step 1
            #    finds that run), or if a run with that id was deleted (then the next id is tried).
            attempt = max(attempt + 1, len(earlier) + 1)
            submission = replace(submission, attempt=attempt)
            try:
                self._send(submission)
            except SubmissionIdTaken:
                continue
            return self.get_job(submission.run_id), True

    def _send(self, submission: Submission) -> None:
        with tempfile.TemporaryDirectory(prefix="batchtag-submit-") as folder:
            (Path(folder) / JOB_FILE).write_text(json.dumps(submission.job, ensure_ascii=False), encoding="utf-8")
            with self._translated_errors():
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=submission.run_id,
                    runtime_env={**submission.runtime_env, "working_dir": folder},
                    metadata=dict(submission.metadata),
                )

    def list_jobs(self) -> list[RayJob]:
        """Return all runs of batchtag that the cluster remembers, oldest first."""
        with self._translated_errors():
            details = self._client.list_jobs()
        jobs = [parse_job(entry) for entry in details if (entry.metadata or {}).get("batchtag")]
        return sorted(jobs, key=lambda job: job.started)

    def get_job(self, run_id: str) -> RayJob:
        """Return one run. Raises UsageError if the cluster does not know it."""
        with self._translated_errors(run_id):
            return parse_job(self._client.get_job_info(run_id))

    def stop_job(self, run_id: str) -> None:
        """Ask a run to end. What it has committed stays."""
        with self._translated_errors(run_id):
            self._client.stop_job(run_id)

    def read_log(self, run_id: str) -> str:
        """Return everything that the driver of a run has printed so far."""
        with self._translated_errors(run_id):
            return self._client.get_job_logs(run_id)

    def read_last_lines(self, run_id: str) -> list[str]:
        """Return the end of the log, which shows why a driver died."""
        return [line for line in self.read_log(run_id).splitlines() if line.strip()][-_NUM_LAST_LINES:]

    @contextlib.contextmanager
    def _translated_errors(self, run_id: str = "") -> Iterator[None]:
        """Hide the variables that override the address, and turn every error into a BatchtagError of one line."""
        hidden = {name: os.environ.pop(name) for name in _OVERRIDING_VARIABLES if name in os.environ}
        try:
            yield
        except BatchtagError:
            raise
        except Exception as error:  # requests, Ray and aiohttp each raise their own
            raise translate_error(error, self._cluster, run_id=run_id) from error
        finally:
            os.environ.update(hidden)


def _make_client(dashboard: Cluster) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    # A web proxy does not lead to this machine, and would see the token.
    proxies = {"no_proxy": "*"} if is_this_machine(urlsplit(dashboard.address).hostname or "") else None

    class ClientWithTimeouts(JobSubmissionClient):
        """Overrides a private method of Ray 2.60. It can go when the client takes a timeout and proxies itself."""

        def _do_request(self, method: str, *arguments: Any, **options: Any) -> Any:
            timeout_s = _UPLOAD_TIMEOUT_S if method == "PUT" else _ANSWER_TIMEOUT_S
            return super()._do_request(method, *arguments, **{"timeout": timeout_s, "proxies": proxies, **options})

    logging.getLogger("ray").setLevel(logging.ERROR)
    return ClientWithTimeouts(dashboard.address, headers=dashboard.headers or None)


def _resolve_dashboard(cluster: Cluster) -> Cluster:
    """Return the cluster with the http(s) address of its dashboard, which Ray finds from `auto`, host:6379 and ray://.

    Raises UsageError if that address is not safe: the token is sent to the address that the head names.
    """
    if cluster.address.startswith(("http://", "https://")):
        return cluster
    if "RAY_AUTH_MODE" not in os.environ:  # Ray reads it when it is imported
        try:
            os.environ["RAY_AUTH_MODE"] = detect_auth_mode(cluster.address)
        except RunFailed as error:
            raise RunFailed(f"{cluster.address}: {error.message}") from None
    from ray.dashboard.utils import get_address_for_submission_client

    return resolve_cluster(get_address_for_submission_client(cluster.address), is_insecure=cluster.is_insecure)


def parse_job(details: Any) -> RayJob:
    """Build a run from Ray's JobDetails, with the metadata that `submit` or a RayJob of KubeRay wrote."""
    metadata: Mapping[str, str] = details.metadata or {}
    return RayJob(
        run_id=details.submission_id,
        status=str(details.status),
        name=metadata.get("name", ""),
        out=metadata.get("out", ""),
        base=metadata.get("base", ""),
        options=_parse_options(metadata.get("options", "")),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
    )


def _parse_options(text: str) -> dict[str, Any]:
    """Return the storage options that a submission wrote; {} for metadata that another program wrote."""
    try:
        options = json.loads(text or "{}")
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}

"""Ray's Jobs API, with its troubles in our words. One HTTP request a call; runs on the laptop.

What Ray 2.60 does, tried: RAY_ADDRESS and RAY_API_SERVER_ADDRESS override the address that is given, so they are hidden
from it; a submission id that is taken is answered with 500 and "already exists"; stopping a job that waits for
resources says yes and does nothing, so no resources are asked for the driver.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchtag.cluster.address import Cluster, cluster_at, is_this_machine
from batchtag.cluster.auth import auth_mode
from batchtag.cluster.machines import Machine
from batchtag.cluster.submission import JOB_FILE, Submission
from batchtag.errors import BatchtagError, RunFailed, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_LAST_LINES = 12
_ANSWER_S = (5.0, 60.0)
"""To connect, and between two pieces of an answer: `status` asks again and again where perhaps nobody is."""
_UPLOAD_S = (600.0, 600.0)
"""Of a package, in one request: what urllib3 has for connecting must be enough to send all of it, too (tried)."""
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True, kw_only=True)
class RayJob:
    """What Ray knows of a run. `status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; times are epoch seconds."""

    run_id: str
    status: str
    name: str
    out: str
    base: str
    options: dict[str, Any] = field(default_factory=dict)
    """`output.storage_options`: how OUT is reached."""
    message: str = ""
    exit_code: int | None = None
    """Of its driver, when that is over."""
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """The runs of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Asks the cluster for its version. Raises RunFailed when it does not answer, or not to us.

        Raises UsageError where its head leads to an address that is not safe to speak to.
        """
        self._cluster = cluster
        with self._words():
            reached = _dashboard(cluster)
            from ray.job_submission import JobSubmissionClient

            # A proxy for the web would see the token, and does not lead here.
            proxies = {"no_proxy": "*"} if is_this_machine(urlsplit(reached.address).hostname or "") else None

            class Client(JobSubmissionClient):
                """Ray's own waits for an answer for ever."""

                def _do_request(self, method: str, *words: Any, **options: Any) -> Any:
                    limits = _UPLOAD_S if method == "PUT" else _ANSWER_S
                    return super()._do_request(method, *words, **{"timeout": limits, "proxies": proxies, **options})

            logging.getLogger("ray").setLevel(logging.ERROR)
            self._client: JobSubmissionClient = Client(reached.address, headers=reached.headers or None)

    def versions(self) -> tuple[str, str]:
        """Ray's version here, and there."""
        import ray

        with self._words():
            return ray.__version__, str(self._client._server_ray_version)

    def machines(self) -> list[Machine]:
        """The nodes that are alive now, as the dashboard's state API tells them."""
        with self._words():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=true&limit=10000")
            answer.raise_for_status()
            rows = answer.json()["data"]["result"]["result"]
        alive = [row["resources_total"] or {} for row in rows if row["state"] == "ALIVE"]
        return [Machine(cpus=float(has.get("CPU", 0)), gpus=float(has.get("GPU", 0))) for has in alive]

    def submit(self, submission: Submission) -> tuple[RayJob, bool]:
        """The run of this job that is under way, else a new one; and whether it is new."""
        attempt = 0
        while True:
            earlier = [job for job in self.all() if job.base == submission.base_id]
            for job in earlier:
                if not job.is_over:
                    return job, False
            attempt = max(attempt + 1, len(earlier) + 1)
            submission = replace(submission, attempt=attempt)
            try:
                self._send(submission)
            except _Taken:
                continue  # by another submission of the same job a moment ago, or by one that was deleted
            return self.get(submission.run_id), True

    def _send(self, submission: Submission) -> None:
        with tempfile.TemporaryDirectory(prefix="batchtag-submit-") as folder:
            (Path(folder) / JOB_FILE).write_text(json.dumps(submission.job, ensure_ascii=False), encoding="utf-8")
            with self._words():
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=submission.run_id,
                    runtime_env={**submission.runtime_env, "working_dir": folder},
                    metadata=dict(submission.metadata),
                )

    def all(self) -> list[RayJob]:
        """Every run of batchtag's that the cluster remembers, oldest first."""
        with self._words():
            found = self._client.list_jobs()
        jobs = [_job(details) for details in found if (details.metadata or {}).get("batchtag")]
        return sorted(jobs, key=lambda job: job.started)

    def get(self, run_id: str) -> RayJob:
        """Raises UsageError if there is none."""
        with self._words(run_id):
            return _job(self._client.get_job_info(run_id))

    def stop(self, run_id: str) -> None:
        """Ask it to end; what is committed stays."""
        with self._words(run_id):
            self._client.stop_job(run_id)

    def log(self, run_id: str) -> str:
        """All that its driver said so far."""
        with self._words(run_id):
            return self._client.get_job_logs(run_id)

    def last_lines(self, run_id: str) -> list[str]:
        """The end of its log: why a driver died."""
        return [line for line in self.log(run_id).splitlines() if line.strip()][-_LAST_LINES:]

    @contextlib.contextmanager
    def _words(self, run_id: str = "") -> Iterator[None]:
        """Hide the variables that would lead elsewhere, and say in one line what went wrong."""
        hidden = {name: os.environ.pop(name) for name in _OVERRIDING if name in os.environ}
        try:
            yield
        except BatchtagError:
            raise
        except Exception as error:  # requests, Ray and aiohttp each have their own
            raise _ours(error, self._cluster, run_id) from error
        finally:
            os.environ.update(hidden)


class _Taken(BatchtagError):
    """The id of a submission is taken."""


def _dashboard(cluster: Cluster) -> Cluster:
    """The cluster by its dashboard's http(s) address, to which `auto`, host:6379 and ray:// lead Ray.

    Raises UsageError for one that is not safe to speak to: the token goes where the head says, not where it was asked.
    """
    if cluster.address.startswith(("http://", "https://")):
        return cluster
    if "RAY_AUTH_MODE" not in os.environ:  # read when Ray is imported
        try:
            os.environ["RAY_AUTH_MODE"] = auth_mode(cluster.address)
        except RunFailed as error:
            raise RunFailed(f"{cluster.address}: {error.message}") from None
    from ray.dashboard.utils import get_address_for_submission_client

    return cluster_at(get_address_for_submission_client(cluster.address), insecure=cluster.insecure)


def _ours(error: Exception, cluster: Cluster, run_id: str) -> BatchtagError:
    text = " ".join(str(error).split())
    kind, status = type(error).__name__, _status(error, text)
    if status and re.search(r"submission_id \S+ already exists", text):
        return _Taken(text)
    if run_id and status == 404:
        return UsageError(f"{cluster.address} knows no run {run_id}; `batchtag list` shows those it has")
    if kind == "AuthenticationError" or status in (401, 403):
        why = "does not accept the token it was given" if cluster.token else "wants a token, and none was given"
        return RunFailed(f"{cluster.address} {why}; set RAY_AUTH_TOKEN to the cluster's own")
    if status == 413:
        return RunFailed(f"{cluster.address} takes no package that large (Ray's limit is 100 MiB): {text[:200]}")
    if untrusted := _why_untrusted(error):
        return RunFailed(
            f"the certificate of {cluster.address} is not trusted here ({untrusted}); REQUESTS_CA_BUNDLE names the "
            "file of an authority of your own"
        )
    if not status and (isinstance(error, OSError) or "Connection" in kind or "Failed to connect" in text):
        return RunFailed(f"no Ray cluster answers at {cluster.address}: {text[:300]}")
    return RunFailed(f"{cluster.address}: {kind}: {text[:500]}")


def _status(error: Exception, text: str) -> int:
    """The HTTP status of the answer, as requests and Ray's client tell it; 0 if there was no answer."""
    if (answer := getattr(error, "response", None)) is not None:
        return int(answer.status_code)
    found = re.match(r"(?:Request failed with status code|Version check returned) (\d{3})\b", text)
    return int(found[1]) if found else 0


def _why_untrusted(error: BaseException | None) -> str:
    """What TLS said of a certificate, which Ray and requests wrap in errors of their own; "" if that is not it."""
    while error is not None:
        if found := re.search(r"certificate verify failed: ([^(\]]+)", str(error)):
            return found.group(1).strip()
        error = error.__cause__ or error.__context__
    return ""


def _job(details: Any) -> RayJob:
    facts: Mapping[str, str] = details.metadata or {}
    return RayJob(
        run_id=details.submission_id,
        status=str(details.status),
        name=facts.get("name", ""),
        out=facts.get("out", ""),
        base=facts.get("base", ""),
        options=_options(facts.get("options", "")),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=(details.start_time or 0) / 1000,
        ended=(details.end_time or 0) / 1000,
    )


def _options(text: str) -> dict[str, Any]:
    """What a submission wrote; {} for what another program did."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""Errors of Ray's Jobs API, of requests and of TLS, as errors of batchtag with one line and a remedy.

Ray 2.60 raises RuntimeError with the HTTP status in the text, requests raises its own, and TLS errors are wrapped in
both. The status decides, not words or digits elsewhere in the text: a host name may hold "403", a path "413".
"""

from __future__ import annotations

import re

from batchtag.cluster.address import Cluster
from batchtag.errors import BatchtagError, RunFailed, UsageError


class SubmissionIdTaken(BatchtagError):
    """A submission id that another run has."""


def translate_error(error: Exception, cluster: Cluster, *, run_id: str) -> BatchtagError:
    """Return the error of batchtag for an error of a request to `cluster`, about `run_id` if it is not ""."""
    text = " ".join(str(error).split())
    kind, status = type(error).__name__, _http_status(error, text)
    if status and re.search(r"submission_id \S+ already exists", text):
        return SubmissionIdTaken(text)
    if run_id and status == 404:
        return UsageError(f"{cluster.address} does not know the run {run_id}; `batchtag list` shows the runs it knows")
    if kind == "AuthenticationError" or status in (401, 403):
        problem = "does not accept the token" if cluster.token else "requires a token, and none was given"
        return RunFailed(f"{cluster.address} {problem}; set RAY_AUTH_TOKEN to the cluster's token")
    if status == 413:
        return RunFailed(f"{cluster.address}: the package is larger than Ray's limit of 100 MiB: {text[:200]}")
    if reason := _certificate_problem(error):
        return RunFailed(
            f"the certificate of {cluster.address} is not trusted here ({reason}); if it comes from your own "
            "certificate authority, set REQUESTS_CA_BUNDLE to the authority's file"
        )
    if not status and (isinstance(error, OSError) or "Connection" in kind or "Failed to connect" in text):
        return RunFailed(f"no Ray cluster answers at {cluster.address}: {text[:300]}")
    return RunFailed(f"{cluster.address}: {kind}: {text[:500]}")


def _http_status(error: Exception, text: str) -> int:
    """Return the HTTP status of the answer, from requests' error or Ray's text; 0 if there was no answer."""
    if (answer := getattr(error, "response", None)) is not None:
        return int(answer.status_code)
    match = re.match(r"(?:Request failed with status code|Version check returned) (\d{3})\b", text)
    return int(match[1]) if match else 0


def _certificate_problem(error: BaseException | None) -> str:
    """Return what TLS reports about the certificate, searched in the chain of causes; "" for other errors."""
    while error is not None:
        if match := re.search(r"certificate verify failed: ([^(\]]+)", str(error)):
            return match.group(1).strip()
        error = error.__cause__ or error.__context__
    return ""

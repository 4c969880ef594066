"""One job as one request to Ray's Jobs API. Pure data: nothing is asked or sent here.

The run's id derives from the job and its output, so the same submission is the same run. No secret is sent: everybody
who reaches the cluster can read job records, runtime environments and packages. Credentials belong to the machines (an
IAM role, a mounted secret), and a job that holds one is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchtag import __version__
from batchtag.config.job import JobSpec, rows_depend_on
from batchtag.errors import UsageError
from batchtag.storage import scheme_of
from batchtag.storage.secrets import scrub, secret_strings

JOB_FILE = "job.yaml"
"""Name of the file in which the job is sent. Its content is JSON, which is also YAML."""
STOP_WAIT_S = 120
"""Seconds that Ray waits for a cancelled driver to end before it kills it. Ray's own default is 3 s."""
_SECRET_NAME_PATTERN = re.compile(
    r"SECRET|TOKEN$|PASSWORD|PASSWD|PASSPHRASE|ACCESS_?KEY|PRIVATE|CREDENTIAL|_KEY$|_PWD$|API_?KEY|CONNECTION_STRING"
    r"|WEBHOOK|(?:^|_)(?:PASS|PAT|AUTH|SAS(?:_UR[IL])?)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One request. `attempt` is 1 for the first submission of this job to this output, and counts up from there."""

    base_id: str
    retries: int
    expected_version: str
    """The version of batchtag that the image must have; "" if the package is sent with the job."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    job: dict[str, Any]
    attempt: int = 1
    warnings: tuple[str, ...] = field(default=())

    @property
    def run_id(self) -> str:
        """The id of the run on the cluster."""
        return self.base_id if self.attempt == 1 else f"{self.base_id}-{self.attempt}"

    @property
    def entrypoint(self) -> str:
        """The shell command that Ray runs on the head, in the folder with the job file."""
        words = ["python", "-m", "batchtag.cluster.entrypoint", "--retries", str(self.retries), "--run-id", self.run_id]
        return shlex.join([*words, *(["--expect", self.expected_version] if self.expected_version else []), JOB_FILE])


def make_submission(spec: JobSpec, *, name: str) -> Submission:
    """Build the request for a job. `name` is shown in listings. Raises UsageError for a job that holds a secret."""
    _check_secrets(spec)
    compute = spec.compute.model_copy(update={"address": ""})
    job = spec.model_copy(update={"compute": compute}).model_dump(mode="json")
    base_id = f"batchtag-{_digest(spec)}"
    runtime_env: dict[str, Any] = {
        "env_vars": {**compute.env, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
    }
    if compute.pip:
        runtime_env["pip"] = list(compute.pip)
    if compute.package == "sent":
        runtime_env["py_modules"] = [str(Path(__file__).parents[1])]
    metadata = {"batchtag": __version__, "name": name, "out": spec.output.uri, "base": base_id}
    if spec.output.storage_options:
        metadata["options"] = json.dumps(job["output"]["storage_options"])
    return Submission(
        base_id=base_id,
        retries=compute.retries,
        expected_version=__version__ if compute.package == "image" else "",
        runtime_env=runtime_env,
        metadata=metadata,
        job=job,
        warnings=tuple(_warn_of_local_paths(spec)),
    )


def _digest(spec: JobSpec) -> str:
    """Hash everything that decides the rows, and their place. How the job is run may change between submissions."""
    identity = {**rows_depend_on(spec), "output": spec.output.uri}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _check_secrets(spec: JobSpec) -> None:
    """Raise UsageError for a job that holds a secret, naming its place and never its value."""
    sections = {"source": spec.source.storage_options, "output": spec.output.storage_options}
    sections |= {f"models[{i}]": getattr(model, "storage_options", {}) for i, model in enumerate(spec.models)}
    for section, options in sections.items():
        if list(secret_strings(options)):
            raise UsageError(
                f"{section}.storage_options holds a secret, which would be stored in the cluster's job records; remove "
                "it from the job file, and give the cluster's machines a role or a mounted secret"
            )
    for name in spec.compute.env:
        if _SECRET_NAME_PATTERN.search(name):
            raise UsageError(
                f"compute.env.{name} looks like a secret, and everybody who reaches the cluster can read the "
                "environment of a job; give it to the cluster's machines instead"
            )
    for path, text in _strings(spec.model_dump(mode="json"), ""):
        if scrub(text, {}) != text:
            raise UsageError(
                f"{path} holds a password or a signature, which would be stored in the cluster's records; remove it"
            )


def _strings(content: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every string in plain data, with its path."""
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _strings(value, f"{path}.{key}".lstrip("."))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _strings(value, f"{path}[{i}]")


def _warn_of_local_paths(spec: JobSpec) -> Iterator[str]:
    """Yield a warning for each path that only this machine is known to have."""
    source: Any = spec.source
    uris = [source.uri] if source.kind == "manifest" else list(source.uris)
    uris += [getattr(model, "uri", "") for model in spec.models]
    for uri in [*uris, spec.output.uri]:
        if uri and scheme_of(uri) == "file":
            yield f"{uri} is a local path: every node of the cluster must have it"

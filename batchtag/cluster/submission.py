"""What is sent: one job as one request to Ray's Jobs API. Pure; nothing is asked or sent here.

The run's id derives from the job and its output, so the same submission is the same run. No secret travels: job
records, runtime environments and packages can be read by whoever reaches the cluster, so credentials belong to the
machines (an IAM role, a mounted secret) and a job that holds some is refused.
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
from batchtag.config.job import JobSpec
from batchtag.errors import UsageError
from batchtag.storage import scheme_of
from batchtag.storage.secrets import scrub, secret_strings

JOB_FILE = "job.yaml"
"""JSON, which is YAML."""
STOP_WAIT_S = 120
"""How long a driver may take to end when it is cancelled, before Ray kills it. Ray's own default is 3 s."""
_SECRET_NAME = re.compile(
    r"SECRET|TOKEN$|PASSWORD|PASSWD|PASSPHRASE|ACCESS_?KEY|PRIVATE|CREDENTIAL|_KEY$|_PWD$|API_?KEY|CONNECTION_STRING"
    r"|WEBHOOK|(?:^|_)(?:PASS|PAT|AUTH|SAS(?:_UR[IL])?)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One request. `attempt` counts how often this job was sent to this output before, plus one."""

    base_id: str
    retries: int
    expects: str
    """The version that the image must have; "" where the package travels."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    job: dict[str, Any]
    attempt: int = 1
    warnings: tuple[str, ...] = field(default=())

    @property
    def run_id(self) -> str:
        return self.base_id if self.attempt == 1 else f"{self.base_id}-{self.attempt}"

    @property
    def entrypoint(self) -> str:
        """The shell command that Ray runs on the head, in the folder with the job's file."""
        words = ["python", "-m", "batchtag.cluster.entrypoint", "--retries", str(self.retries), "--run-id", self.run_id]
        return shlex.join([*words, *(["--expect", self.expects] if self.expects else []), JOB_FILE])


def make_submission(spec: JobSpec, *, name: str) -> Submission:
    """The request for a job. `name` is what people call it. Raises UsageError for a job that must not travel."""
    _check_secrets(spec)
    compute = spec.compute.model_copy(update={"address": ""})
    job = spec.model_copy(update={"compute": compute}).model_dump(mode="json")
    base_id = f"batchtag-{_digest(job)}"
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
        expects=__version__ if compute.package == "image" else "",
        runtime_env=runtime_env,
        metadata=metadata,
        job=job,
        warnings=tuple(_local_paths(spec)),
    )


def _digest(job: Mapping[str, Any]) -> str:
    """Of what decides the rows, and where they go: the rest of how it is run may change between two submissions."""
    decisive = {key: value for key, value in job.items() if key not in ("compute", "max_failure_rate")}
    if job["compute"]["precision"] != "float32":
        decisive["precision"] = job["compute"]["precision"]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _check_secrets(spec: JobSpec) -> None:
    places = {"source": spec.source.storage_options, "output": spec.output.storage_options}
    places |= {f"models[{i}]": getattr(model, "storage_options", {}) for i, model in enumerate(spec.models)}
    for place, options in places.items():
        if list(secret_strings(options)):
            raise UsageError(
                f"{place}.storage_options holds a secret, which would travel into the cluster's job records; give the "
                "cluster's machines a role or a mounted secret, and take it out of the job file"
            )
    for name in spec.compute.env:
        if _SECRET_NAME.search(name):
            raise UsageError(
                f"compute.env.{name} looks like a secret, and the environment of a job can be read by whoever reaches "
                "the cluster; give it to the cluster's machines instead"
            )
    for path, text in _strings(spec.model_dump(mode="json"), ""):
        if scrub(text, {}) != text:
            raise UsageError(
                f"{path} holds a password or a signature, which would travel into the cluster's records; take it out"
            )


def _strings(content: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every string of plain data, with its path."""
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _strings(value, f"{path}.{key}".lstrip("."))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _strings(value, f"{path}[{i}]")


def _local_paths(spec: JobSpec) -> Iterator[str]:
    source: Any = spec.source
    uris = [source.uri] if source.kind == "manifest" else list(source.uris)
    uris += [getattr(model, "uri", "") for model in spec.models]
    for uri in [*uris, spec.output.uri]:
        if uri and scheme_of(uri) == "file":
            yield f"{uri} is a path: every node of the cluster must have it"

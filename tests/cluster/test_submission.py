"""Submissions: the same job is the same run, and no secret is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from batchtag.cluster.submission import Submission, make_submission
from batchtag.config.job import make_spec
from batchtag.errors import UsageError


def job(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "source": {"kind": "prefix", "uris": ["s3://photos/2026/"]},
        "models": [{"kind": "constant"}],
        "output": {"uri": "s3://tags/2026"},
        **changes,
    }


def submission(**changes: Any) -> Submission:
    return make_submission(make_spec(job(**changes), origin="job.yaml"), name="shelves")


def test_the_same_job_to_the_same_output_is_the_same_run_however_it_is_run() -> None:
    first = submission()
    assert submission(compute={"retries": 2, "actors": 3}).run_id == first.run_id
    assert submission(decode={"timeout_s": 5}).run_id == first.run_id, "as for resume"
    assert submission(output={"uri": "s3://tags/2027"}).run_id != first.run_id
    assert submission(models=[{"kind": "constant", "tag": "x"}]).run_id != first.run_id
    assert submission(compute={"precision": "bfloat16"}).run_id != first.run_id, "precision decides the rows"


def test_a_later_attempt_has_an_id_of_its_own_which_its_driver_gets() -> None:
    again = replace(submission(), attempt=3)
    assert again.run_id == f"{submission().base_id}-3"
    assert f"--run-id {again.run_id} " in again.entrypoint


def test_the_environment_is_sent_and_the_address_is_not() -> None:
    sent = submission(compute={"address": "https://ray.acme", "env": {"HF_HOME": "/x"}, "pip": ["adlfs"], "retries": 2})
    assert sent.job["compute"]["address"] == ""
    assert sent.runtime_env["env_vars"]["HF_HOME"] == "/x"
    assert sent.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
    assert sent.runtime_env["pip"] == ["adlfs"]
    assert sent.runtime_env["py_modules"][0].endswith("/batchtag")
    assert submission(compute={"env": {"TOKENIZERS_PARALLELISM": "false"}}).run_id == submission().run_id
    assert "--retries 2" in sent.entrypoint
    image = submission(compute={"package": "image"})
    assert "py_modules" not in image.runtime_env
    assert "--expect " in image.entrypoint


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"output": {"uri": "s3://tags/x", "storage_options": {"secret": "wJalrXUtnFEMI"}}}, "output.storage_options"),
        (
            {"source": {"kind": "prefix", "uris": ["s3://p/"], "storage_options": {"client_kwargs": {"key": "AKIA"}}}},
            "source.storage_options",
        ),
        (
            {"models": [{"kind": "checkpoint", "uri": "s3://m/x", "storage_options": {"token": "abcd"}}]},
            "models.0..storage_options",
        ),
        (
            {"source": {"kind": "prefix", "uris": ["https://p/"], "storage_options": {"headers": ["wJalr"]}}},
            "source.storage_options",
        ),
        ({"compute": {"env": {"AWS_SECRET_ACCESS_KEY": "wJalr"}}}, "compute.env.AWS_SECRET_ACCESS_KEY"),
        ({"compute": {"env": {"AZURE_STORAGE_KEY": "wJalr"}}}, "compute.env.AZURE_STORAGE_KEY"),
        ({"compute": {"pip": ["--index-url https://me:wJalr@pypi.acme/simple"]}}, r"compute.pip\[0\]"),
        ({"output": {"uri": "https://acme/x?sig=wJalr"}}, "output.uri"),
    ],
)
def test_a_job_with_a_secret_is_refused_and_the_secret_is_not_shown(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(UsageError, match=path) as refused:
        submission(**changes)
    assert not any(secret in refused.value.message for secret in ("wJalr", "AKIA", "abcd"))


@pytest.mark.parametrize(
    "name",
    [
        *("DB_PASS", "GIT_PAT", "HTTP_BASIC_AUTH", "AZURE_STORAGE_SAS", "SAS_URL", "SSH_PASSPHRASE"),
        *("SLACK_WEBHOOK_URL", "MYSQL_PWD", "hf_token"),
    ],
)
def test_variables_named_like_secrets_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"compute.env.{name} looks like a secret"):
        submission(compute={"env": {name: "x"}})


@pytest.mark.parametrize(
    "name",
    [
        *("PASSENGER", "BYPASS", "PASSES", "AUTHOR", "RAY_AUTH_MODE", "OAUTH", "PATH", "PATTERN", "COMPAT", "PWD"),
        *("SASS_PATH", "KEYBOARD", "TOKENIZERS_PARALLELISM"),
    ],
)
def test_harmless_variables_with_similar_names_are_sent(name: str) -> None:
    assert submission(compute={"env": {name: "x"}}).runtime_env["env_vars"][name] == "x"


def test_storage_options_of_the_output_are_sent_so_that_others_can_watch() -> None:
    options = {"client_kwargs": {"endpoint_url": "http://minio:9000"}, "use_ssl": False}
    sent = submission(output={"uri": "s3://tags/2026", "storage_options": options})
    assert json.loads(sent.metadata["options"]) == options
    assert "options" not in submission().metadata


def test_local_paths_are_warned_of() -> None:
    sent = submission(output={"uri": "/data/tags"})
    assert sent.warnings == ("/data/tags is a local path: every node of the cluster must have it",)
    assert submission().warnings == ()

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchtag.config.job import JobSpec, make_spec
from batchtag.errors import ConditionFailed, OutputError, StorageError
from batchtag.output.job_identity import (
    check_same_job,
    job_identity,
    read_job,
    read_thresholds,
    store_or_check_job,
    store_thresholds,
)
from batchtag.output.layout import Layout
from batchtag.storage.local import LocalStore
from tests.support.samples import info

STORE = LocalStore()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


def job(**changes: Any) -> JobSpec:
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": ["s3://b/photos/"]},
        "models": [{"kind": "torchvision", "builder": "resnet50"}],
        "output": {"uri": "s3://b/tags"},
    }
    return make_spec({**content, **changes}, origin="test")


def identity_of(spec: JobSpec, **changes: Any) -> dict[str, Any]:
    return job_identity(spec, [info(**changes)])


def test_a_new_out_accepts_any_job_and_then_only_the_same_job(layout: Layout) -> None:
    spec = job()
    assert read_job(store=STORE, layout=layout) is None
    assert store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)
    assert not store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)
    assert read_job(store=STORE, layout=layout) == identity_of(spec)


@pytest.mark.parametrize(
    ("changes", "infos", "difference"),
    [
        ({"source": {"kind": "prefix", "uris": ["s3://b/x/"]}}, {}, r'source\.uris\[0\] was "s3://b/photos/" and is'),
        ({"source": {"kind": "prefix", "uris": ["s3://b/photos/"], "limit": 5}}, {}, r"source\.limit was null"),
        ({"decode": {"depth": "scale"}}, {}, r'decode\.depth was "clip" and is "scale" now'),
        ({}, {"labels": ("cat", "dog", "cow")}, r"models\[0\]\.num_labels was 2 and is 3 now"),
        ({}, {"labels": ("cat", "cow")}, r"models\[0\]\.labels_sha256 was"),
        ({}, {"name": "other"}, r'models\[0\]\.id was "scene@0123456789ab" and is "other@0123456789ab" now'),
        ({"models": [{"kind": "torchvision", "builder": "resnet50", "max_tags": 1}]}, {}, r"spec\.max_tags was 0"),
        ({"compute": {"precision": "bfloat16"}}, {}, r'precision was "float32" and is "bfloat16" now'),
    ],
)  # fmt: skip
def test_another_job_is_refused_and_the_message_has_the_differences_and_a_way_out(
    layout: Layout, changes: dict[str, Any], infos: dict[str, Any], difference: str
) -> None:
    store_or_check_job(identity_of(job()), spec=job(), store=STORE, layout=layout)
    with pytest.raises(OutputError, match=difference) as caught:
        store_or_check_job(identity_of(job(**changes), **infos), spec=job(**changes), store=STORE, layout=layout)
    assert caught.value.message.startswith(f"{layout.out} holds the tables of another job: ")
    assert "choose another --out" in caught.value.message


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_old_job_file_without_precision_is_the_same_job_in_the_precision_of_its_first_run(
    layout: Layout, precision: str
) -> None:
    spec = job(compute={"precision": precision})
    store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)
    content = json.loads(STORE.read(layout.job).data)
    assert content.pop("precision") == content["first_run"]["compute"]["precision"] == precision
    STORE.write(layout.job, json.dumps(content).encode())
    assert read_job(store=STORE, layout=layout) == identity_of(spec)


def test_settings_of_the_cluster_that_may_hold_secrets_are_not_stored(layout: Layout) -> None:
    compute = {"env": {"HF_TOKEN": "hidden"}, "pip": ["--index-url=https://me:hidden@pypi.acme"], "address": "hidden"}
    spec = job(compute=compute)
    store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)
    assert b"hidden" not in STORE.read(layout.job).data


def test_another_number_of_models_is_another_job(layout: Layout) -> None:
    two = job(models=[{"kind": "constant", "name": "a"}, {"kind": "constant", "name": "b"}])
    with pytest.raises(OutputError, match=r"models was \[.* and is \["):
        check_same_job(job_identity(two, [info("a"), info("b")]), identity_of(job()), layout=layout)


def test_compute_and_the_allowed_failures_and_credentials_may_change(layout: Layout) -> None:
    store_or_check_job(identity_of(job()), spec=job(), store=STORE, layout=layout)
    for changes in (
        {"compute": {"actors": 4, "bundle_size": 100, "device": "cpu"}},
        {"max_failure_rate": 1},
        {"decode": {"timeout_s": 5}},
        {"source": {"kind": "prefix", "uris": ["s3://b/photos/"], "storage_options": {"key": "another"}}},
    ):
        spec = job(**changes)
        assert not store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)


def test_a_flag_that_checks_the_task_of_a_model_does_not_make_another_job(layout: Layout) -> None:
    """`--classifier resnet50` sets the task that it expects; a job file need not."""
    by_flag = job(models=[{"kind": "torchvision", "builder": "resnet50", "task": "classify"}])
    check_same_job(identity_of(by_flag), identity_of(job()), layout=layout)


def test_storage_options_are_not_stored(layout: Layout) -> None:
    options = {"key": "hunter2", "client_kwargs": {"secret": "hunter2"}}
    spec = job(
        source={"kind": "prefix", "uris": ["s3://b/photos/"], "storage_options": options},
        models=[{"kind": "checkpoint", "uri": "s3://m/x", "storage_options": options}],
        output={"uri": "s3://b/tags", "storage_options": options},
    )
    store_or_check_job(identity_of(spec), spec=spec, store=STORE, layout=layout)
    stored = Path(layout.job).read_text()
    assert "hunter2" not in stored
    assert json.loads(stored)["first_run"]["output"]["uri"] == "s3://b/tags"


def test_long_values_are_shortened_and_further_differences_are_counted(layout: Layout) -> None:
    store_or_check_job(identity_of(job()), spec=job(), store=STORE, layout=layout)
    other = job(
        source={"kind": "prefix", "uris": ["x" * 200], "exclude": ["y" * 200], "limit": 3},
        decode={"depth": "scale", "scaled": False, "max_pixels": 5},
    )
    with pytest.raises(OutputError, match=r"\.\.\. now.* and 1 more") as caught:
        store_or_check_job(identity_of(other), spec=other, store=STORE, layout=layout)
    assert len(caught.value.message) < 700


class LostAnswer(LocalStore):
    """The write succeeds and its answer is lost, so the next attempt finds the object."""

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        super().write_if(uri, data, expected=expected)
        raise ConditionFailed(f"{uri}: somebody else wrote it")


def test_a_job_that_was_stored_although_the_answer_was_lost_is_accepted(layout: Layout) -> None:
    assert store_or_check_job(identity_of(job()), spec=job(), store=LostAnswer(), layout=layout)
    assert read_job(store=STORE, layout=layout) == identity_of(job())


def test_thresholds_are_those_of_the_last_run_and_do_not_make_another_job(layout: Layout) -> None:
    spec, first = job(), info()
    assert read_thresholds(store=STORE, layout=layout) == {}
    store_thresholds([first], store=STORE, layout=layout)
    assert not Path(layout.thresholds).exists()
    for score in (0.4, 0.7):
        evaluated = replace(first, thresholds=(("cat", score),))
        store_or_check_job(job_identity(spec, [evaluated]), spec=spec, store=STORE, layout=layout)
        store_thresholds([evaluated], store=STORE, layout=layout)
        assert read_thresholds(store=STORE, layout=layout) == {"scene@0123456789ab": {"cat": score}}
    store_thresholds([first], store=STORE, layout=layout)
    assert read_thresholds(store=STORE, layout=layout) == {}


@pytest.mark.parametrize("text", ["", "[1]", '{"m": 3}', '{"m": {"cat": "high"}}'])
def test_a_damaged_file_of_thresholds_is_an_error_with_its_name(layout: Layout, text: str) -> None:
    STORE.write(layout.thresholds, text.encode())
    with pytest.raises(StorageError, match=r"thresholds\.json: is damaged.* Restore it, or delete it"):
        read_thresholds(store=STORE, layout=layout)

"""How good a model is: a checkpoint or a published model on labelled pictures, or tags that are in tables already.

A checkpoint looks at the pictures here, in this process, through the line's own stream and models, and the rows it
makes are judged as rows of an OUT are; so both ways give the same figures. Tables need neither pictures nor a GPU: what
their run found of each picture (its size, its content, its failure) is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from batchtag import models
from batchtag.database import no_tables, open_database
from batchtag.datasets import Dataset, guess_dataset, open_dataset
from batchtag.datasets.check import CheckedData, check_dataset, check_opened, data_digest, read_data
from batchtag.datasets.opening import Opened
from batchtag.datasets.spec import DataSpec, OnProblem
from batchtag.decode import DecodeRules
from batchtag.errors import UsageError
from batchtag.evaluation import Evaluation
from batchtag.identity import read_job
from batchtag.layout import Layout
from batchtag.models.spec import ModelSpec, model_name
from batchtag.predict import predict
from batchtag.processes import available_cores
from batchtag.query import define_committed
from batchtag.records import Status
from batchtag.scoring import score_tags
from batchtag.storage import absolute_uri, open_store
from batchtag.tables import tags_table

Told = Callable[[str], None]
ON_PROBLEM = OnProblem(missing_picture="drop", empty_class="keep")
"""Of data that are only measured on: what is wrong costs itself and is told."""
_KIND = {"detect": "object", "classify": "class"}


def open_truth(uri: str, *, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """The labelled pictures at a URI, of whatever kind they are; none is opened yet."""
    return open_dataset(guess_dataset(uri, storage_options=storage_options))


def held_out(data: DataSpec, *, told: Told) -> Dataset:
    """What a training job measures on, checked: the very pictures that `train` held out."""
    threads = 2 * available_cores()
    checked: CheckedData = read_data(data, rules=DecodeRules(), threads=threads, told=_pictures_told(told))
    return checked.val


def checked_truth(truth: Dataset, *, told: Told) -> Dataset:
    """Every picture opened, and what cannot be measured on left out."""
    threads = 2 * available_cores()
    return check_dataset(truth, on_problem=ON_PROBLEM, rules=DecodeRules(), threads=threads, told=_pictures_told(told))


def evaluate_model(spec: ModelSpec, truth: Dataset, *, data: str, device: str = "auto", told: Told) -> Evaluation:
    """Let a model look at pictures that were checked, and judge it.

    A classifier says its score for every label, whatever the spec's limits; a detector what its spec says, by default
    as a run would. Raises ModelError, and UsageError for a model of the other task.
    """
    if truth.task == "classify":
        spec = spec.model_copy(update={"score_floor": 0.0, "max_tags": 1_000_000})
    card = models.prepare(spec)
    if card.kind != _KIND[truth.task]:
        raise UsageError(
            f"{model_name(spec)} gives {card.kind} tags, and the data are to {truth.task}; name other data"
        )
    model = models.load(spec, device=_device(device))
    total = len(truth.images)
    outcomes = predict(
        [image.uri for image in truth.images],
        [(card, model)],
        storage_options=truth.storage_options,
        told=lambda done: told(f"evaluating: {done:,} of {total:,} pictures"),
    )
    failed = Counter(str(one.failure.code) for one in outcomes if one.failure is not None)
    return _evaluation(
        tags_table(outcomes, run_id=""),
        truth,
        model=card.name,
        digest=card.digest,
        data=data,
        settings={"score_floor": spec.score_floor, "max_tags": spec.max_tags or 100, **_failures(failed)},
    )


def evaluate_out(
    out: str, truth: Dataset, *, data: str, model: str = "", storage_options: Mapping[str, Any] | None = None
) -> Evaluation:
    """Judge one model's tags in the tables of an OUT. `truth` is as it was opened; its pictures are not needed.

    `model` is its name or `name@digest`; "" where only one can be meant. Pictures of the truth that are not in OUT, or
    failed there, are left out and counted. Raises UsageError where nothing fits.
    """
    uri = absolute_uri(out).rstrip("/")
    store, layout = open_store(uri, storage_options), Layout(uri)
    job = read_job(store=store, layout=layout)
    if job is None:
        raise no_tables(out)
    chosen = _chosen_model(job, task=truth.task, model=model, out=out)
    with ExitStack() as stack:
        database = stack.enter_context(open_database(store=store, layout=layout))
        define_committed(database)
        images = database.connection.sql(
            "select images.uri, width, height, content_hash, status, code, message from images "
            "left join errors using (uri)"
        ).to_arrow_table()
        tags = database.connection.execute(
            "select * from tags where model = ? and parent is null order by uri, rank", [chosen["id"]]
        ).to_arrow_table()
    truth = _placed(truth, images["uri"].to_pylist(), out=out)
    opened = {row["uri"]: _opened(row) for row in images.to_pylist()}
    absent = Opened(problem="missing_picture", detail=f"is labelled, and is not in {out}")
    here = {image.uri: opened.get(image.uri, absent) for image in truth.images}
    checked = check_opened(truth, here, on_problem=ON_PROBLEM)
    name, _, digest = chosen["id"].rpartition("@")
    settings = {"tables": out, "score_floor": chosen["spec"].get("score_floor")}
    return _evaluation(tags, checked, model=name, digest=digest, data=data, settings=settings)


def _evaluation(
    tags: pa.Table, truth: Dataset, *, model: str, digest: str, data: str, settings: Mapping[str, Any]
) -> Evaluation:
    return Evaluation(
        model=model,
        digest=digest,
        data=data,
        data_digest=data_digest(truth),
        truth=truth,
        score=score_tags(tags, truth.images, truth.labels, is_detection=truth.task == "detect"),
        evaluated_at=datetime.now(UTC),
        num_problems=dict(Counter(one.kind for one in truth.problems)),
        settings=settings,
    )


def _chosen_model(job: Mapping[str, Any], *, task: str, model: str, out: str) -> dict[str, Any]:
    whole = [one for one in job["models"] if one["spec"].get("on", "image") == "image" and one["kind"] == _KIND[task]]
    fitting = [one for one in whole if model in ("", one["id"], one["id"].rpartition("@")[0])]
    if len(fitting) == 1:
        return dict(fitting[0])
    known = ", ".join(one["id"] for one in whole) or f"none that gives {_KIND[task]} tags of whole pictures"
    if model:
        raise UsageError(f"{out}: no model {model!r} to {task} with; it has {known}")
    raise UsageError(f"{out}: the data are to {task}, and of such models it has {known}; choose one with --model")


def _placed(truth: Dataset, uris: list[str], *, out: str) -> Dataset:
    """The truth with its pictures' URIs as OUT has them: the same URIs, or else the same file names."""
    there = set(uris)
    if any(image.uri in there for image in truth.images):
        return truth
    by_name = {uri.rsplit("/", 1)[-1]: uri for uri in uris}
    names = [image.uri.rsplit("/", 1)[-1] for image in truth.images]
    if len(by_name) == len(uris) and len(set(names)) == len(names) and any(name in by_name for name in names):
        images = [replace(i, uri=by_name.get(n, i.uri)) for i, n in zip(truth.images, names, strict=True)]
        return replace(truth, images=tuple(images))
    example = f"such as {truth.images[0].uri}" if truth.images else "and there are none"
    raise UsageError(
        f"{out}: holds none of the {len(truth.images):,} labelled pictures ({example}; it holds "
        f"{uris[0] if uris else 'no pictures'}). Name the truth of these pictures, or the folder they were tagged from"
    )


def _opened(row: Mapping[str, Any]) -> Opened:
    if row["status"] == Status.FAILED:
        return Opened(problem="undecodable", detail=f"failed in the run: {row['code']}: {row['message']}")
    return Opened(width=row["width"], height=row["height"], content_hash=row["content_hash"])


def _failures(failed: Mapping[str, int]) -> dict[str, str]:
    return {"failed": ", ".join(f"{code} {count:,}" for code, count in failed.items())} if failed else {}


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _pictures_told(told: Told) -> Callable[[int, int], None]:
    return lambda done, total: told(f"checking the labelled pictures: {done:,} of {total:,}")

"""Evaluation of a model against labelled images: of a checkpoint or a published model, or of the tags in an output.

A model is run here, in this process, by the code that also runs it in a job. Its tags then become rows and are scored
like the rows of an output, so that both ways give the same metrics. An output needs neither images nor a GPU: the size,
the content hash and the failure of each image are in its tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from batchtag import models
from batchtag.analysis.database import no_tables_error, open_database
from batchtag.analysis.query import define_committed_tables
from batchtag.config.model import ModelSpec, model_name
from batchtag.datasets import Dataset, Problem
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.image_check import ImageFacts
from batchtag.datasets.validate import check_with_facts, data_digest
from batchtag.errors import UsageError
from batchtag.evaluation.ground_truth import ON_PROBLEM, OnProgress
from batchtag.evaluation.result import Evaluation
from batchtag.evaluation.scoring import score_tags
from batchtag.evaluation.uri_matching import match_uris
from batchtag.models.acceleration.runtime import Runtime, choose_engine
from batchtag.output.job_identity import read_job
from batchtag.output.layout import Layout
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import tag_images
from batchtag.storage import absolute_uri, open_store
from batchtag.system import available_cores
from batchtag.tasks import TASKS, Task
from batchtag.types import ImageResult, ModelInfo, Status

_DEFAULT_MAX_TAGS: dict[Task, int] = {"detect": 100, "classify": 5}
"""The number of tags that `max_tags: 0` stands for."""
_IMAGES_SQL = """
select images.uri, width, height, orientation, content_hash, status, code, message
from images left join errors using (uri) order by position
"""
_TAGS_SQL = "select * from tags where model = ? and parent is null order by uri, rank"


def prepare_model(spec: ModelSpec, *, task: Task) -> ModelInfo:
    """Resolve the model and check its task, before any image is opened.

    Raises ModelError, and UsageError for a model of another task.
    """
    info = models.prepare(spec)
    if info.kind != TASKS[task].kind:
        raise UsageError(
            f"{model_name(spec)} gives tags of kind {info.kind!r}, but the labelled images are for the task {task!r}, "
            f"which needs tags of kind {TASKS[task].kind!r}; choose another model or other labelled images"
        )
    return info


def choose_device(device: str) -> str:
    """Return `cpu` or `cuda` for the device that a user named. Raises UsageError for one that this machine lacks."""
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device is {device!r}; it must be auto, cpu or cuda")
    if device == "cuda" and not has_gpu:
        raise UsageError("--device is 'cuda', but torch finds no GPU on this machine; use cpu, or leave the option out")
    return device


def evaluate_model(
    spec: ModelSpec, ground_truth: Dataset, *, data: str, device: str = "auto", on_progress: OnProgress
) -> Evaluation:
    """Run a model on labelled images that were checked, and score its tags.

    A classifier is scored by its scores for all labels, whatever the limits of `spec`; a detector by the tags that
    `spec` allows, which by default are those of a run. An image on which the model fails is left out and reported.
    `data` is the name of the labelled images in the report. Raises what `prepare_model` and `choose_device` raise.
    """
    info = prepare_model(spec, task=ground_truth.task)
    limits = {"score_floor": spec.score_floor, "max_tags": spec.max_tags or _DEFAULT_MAX_TAGS[ground_truth.task]}
    if ground_truth.task == "classify":
        limits = {"score_floor": 0.0, "max_tags": len(info.labels)}
    device = choose_device(device)
    runtime = Runtime(device=device, engine=choose_engine(device), threads=available_cores())
    model = models.load(spec.model_copy(update=limits), runtime=runtime)
    num_images = len(ground_truth.images)
    results = tag_images(
        [image.uri for image in ground_truth.images],
        [(info, model)],
        storage_options=ground_truth.storage_options,
        on_progress=lambda num_done: on_progress(f"evaluating: {num_done:,} of {num_images:,} images"),
    )
    ground_truth = _leave_out_failed(ground_truth, results)
    is_detection = ground_truth.task == "detect"
    tags = tags_table(results, run_id="")
    return Evaluation(
        model=info.name,
        digest=info.digest,
        data=data,
        data_digest=data_digest(ground_truth),
        ground_truth=ground_truth,
        score=score_tags(tags, ground_truth.images, ground_truth.labels, is_detection=is_detection),
        evaluated_at=datetime.now(UTC),
        num_problems=_count_problems(ground_truth),
        settings=limits,
    )


def evaluate_out(
    out: str, ground_truth: Dataset, *, data: str, model: str = "", storage_options: Mapping[str, Any] | None = None
) -> Evaluation:
    """Score the tags of one model in the tables of an output. The images of `ground_truth` need not exist.

    `model` is the name of the model or `name@digest`; "" if the output has only one for this task. Labelled images that
    are not in the output, or failed there, are left out and counted. `data` is the name of the labelled images in the
    report. Raises UsageError if the output has no tables, no such model, or none of the images.
    """
    tables = _read_tables(out, task=ground_truth.task, model=model, storage_options=storage_options)
    uris_in_out = match_uris([image.uri for image in ground_truth.images], tables.rows_by_uri, out=out)
    facts = {
        image.uri: _facts_of_row(tables.rows_by_uri[uris_in_out[image.uri]], image)
        if image.uri in uris_in_out
        else ImageFacts(problem="missing_image", detail=f"is labelled, but is not in {out}")
        for image in ground_truth.images
    }
    checked = check_with_facts(ground_truth, facts, on_problem=ON_PROBLEM)
    images = [replace(image, uri=uris_in_out[image.uri]) for image in checked.images]
    name, _, digest = tables.model["id"].rpartition("@")
    score_floor = tables.model["spec"]["score_floor"]
    max_tags = tables.model["spec"]["max_tags"] or _DEFAULT_MAX_TAGS[checked.task]
    return Evaluation(
        model=name,
        digest=digest,
        data=data,
        data_digest=data_digest(checked),
        ground_truth=checked,
        score=score_tags(tables.tags, images, checked.labels, is_detection=checked.task == "detect"),
        evaluated_at=datetime.now(UTC),
        num_problems=_count_problems(checked),
        settings={"tables": out, "score_floor": score_floor, "max_tags": max_tags},
        note=_note_on_tables(checked.task, score_floor=score_floor, max_tags=max_tags),
        uris_in_out=uris_in_out,
    )


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The tables of an output: the row of each image by URI, the tags of one model, and the job's entry for it."""

    rows_by_uri: Mapping[str, Mapping[str, Any]]
    tags: pa.Table
    model: Mapping[str, Any]


def _read_tables(out: str, *, task: Task, model: str, storage_options: Mapping[str, Any] | None) -> _Tables:
    uri = absolute_uri(out).rstrip("/")
    store, layout = open_store(uri, storage_options), Layout(uri)
    job = read_job(store=store, layout=layout)
    if job is None:
        raise no_tables_error(out)
    chosen = _choose_model(job, task=task, model=model, out=out)
    with open_database() as database:
        define_committed_tables(database.add_output(store=store, layout=layout))
        rows = database.connection.sql(_IMAGES_SQL).to_arrow_table().to_pylist()
        tags = database.connection.sql(_TAGS_SQL, params=[chosen["id"]]).to_arrow_table()
    return _Tables(rows_by_uri={row["uri"]: row for row in rows}, tags=tags, model=chosen)


def _count_problems(ground_truth: Dataset) -> dict[str, int]:
    return dict(Counter(problem.kind for problem in ground_truth.problems))


def _choose_model(job: Mapping[str, Any], *, task: Task, model: str, out: str) -> dict[str, Any]:
    """Return the entry of the job's model to evaluate. Models of crops are never chosen."""
    of_task = [
        entry
        for entry in job["models"]
        if entry["spec"].get("on", "image") == "image" and entry["kind"] == TASKS[task].kind
    ]
    matching = [entry for entry in of_task if model in ("", entry["id"], entry["id"].rpartition("@")[0])]
    if len(matching) == 1:
        return dict(matching[0])
    ids = ", ".join(entry["id"] for entry in of_task)
    if not of_task:
        all_ids = ", ".join(entry["id"] for entry in job["models"])
        raise UsageError(
            f"{out}: the labelled images are for the task {task!r}, but no model of this output gives tags of kind "
            f"{TASKS[task].kind!r} for whole images (it has {all_ids}); choose other labelled images"
        )
    if model:
        raise UsageError(f"{out}: has no model {model!r} for the task {task!r}; choose one of {ids} with --model")
    raise UsageError(f"{out}: has several models for the task {task!r} ({ids}); choose one with --model")


def _note_on_tables(task: Task, *, score_floor: float, max_tags: int) -> str:
    """Return the note for a reader of the report on what the tables do not contain."""
    limits = f"Measured on the tables, which have the best {max_tags} tags of an image, down to a score of"
    if task == "detect":
        return f"{limits} {score_floor:g}. Boxes that the run did not write do not count."
    return (
        f"{limits} {score_floor:g}. A tag that the run did not write counts as a score of 0. Accuracy and F1 are those "
        "of the model wherever its best score was written. AUC, its curves and the thresholds are those of the tables "
        "and not of all scores of the model; evaluate the model itself for these."
    )


def _facts_of_row(row: Mapping[str, Any], image: LabelledImage) -> ImageFacts:
    """Return the facts that a run wrote about an image, and those of the annotations where it wrote none."""
    if row["status"] == Status.FAILED:
        return ImageFacts(problem="undecodable", detail=f"failed in the run: {row['code']}: {row['message']}")
    return ImageFacts(
        width=row["width"] or image.width,
        height=row["height"] or image.height,
        orientation=row["orientation"] or 1,
        content_hash=row["content_hash"] or row["uri"],
    )


def _leave_out_failed(ground_truth: Dataset, results: Sequence[ImageResult]) -> Dataset:
    """Leave out images without a result, as in an output, and report them. Raises UsageError if no image remains."""
    pairs = list(zip(ground_truth.images, results, strict=True))
    problems = [
        Problem(kind="undecodable", uri=image.uri, detail=f"failed: {result.failure.code}: {result.failure.message}")
        for image, result in pairs
        if result.failure is not None
    ]
    images = tuple(image for image, result in pairs if result.failure is None)
    if not images:
        raise UsageError(
            f"all {len(problems):,} labelled images failed, for example {problems[0]}; "
            "correct them or choose other labelled images"
        )
    return replace(ground_truth, images=images, problems=(*ground_truth.problems, *problems))

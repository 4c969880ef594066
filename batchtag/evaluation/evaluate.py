"""How good a model is: a checkpoint or a published model on labelled images, or tags that are in tables already.

A checkpoint looks at the images here, in this process, through the line's own stream and models, and the rows it
makes are judged as rows of an OUT are; so both ways give the same figures. Tables need neither images nor a GPU: what
their run found of each image (its size, its content, its failure) is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from batchtag import models
from batchtag.analysis.database import no_tables, open_database
from batchtag.analysis.query import define_committed
from batchtag.config.dataset import DataSpec, OnProblem
from batchtag.config.model import ModelSpec, model_name
from batchtag.datasets import Dataset, Problem, guess_dataset, open_dataset
from batchtag.datasets.base import LabelledImage
from batchtag.datasets.image_check import Opened
from batchtag.datasets.validate import CheckedData, check_dataset, check_opened, data_digest, read_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import UsageError
from batchtag.evaluation.result import Evaluation
from batchtag.evaluation.scoring import score_tags
from batchtag.evaluation.uri_matching import counterparts
from batchtag.models.acceleration.runtime import Runtime, engine_on
from batchtag.output.job_identity import read_job
from batchtag.output.layout import Layout
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import predict
from batchtag.storage import absolute_uri, open_store
from batchtag.system import available_cores
from batchtag.tasks import Task
from batchtag.types import ImageResult, ModelInfo, Status

Told = Callable[[str], None]
ON_PROBLEM = OnProblem(
    unknown_class="drop",
    missing_image="drop",
    unreadable="drop",
    wrong_image="drop",
    wrong_size="drop",
    empty_class="keep",
    conflict="drop",
)
"""Of data that are only measured on: what is wrong costs itself and is told."""
_KIND = {"detect": "object", "classify": "class"}
_MOST_TAGS = {"detect": 100, "classify": 5}
"""What `max_tags: 0` means."""
_IMAGES = """
select images.uri, width, height, orientation, content_hash, status, code, message
from images left join errors using (uri) order by position
"""
_TAGS = "select * from tags where model = ? and parent is null order by uri, rank"


def open_ground_truth(uri: str, *, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """The labelled images at a URI, of whatever kind they are; none is opened yet.

    Those of COCO come by their image ids, as pycocotools takes them: of findings with equal scores the first leads.
    """
    ground_truth = open_dataset(guess_dataset(uri, storage_options=storage_options))
    if all(image.image_id.isdecimal() for image in ground_truth.images):
        return replace(ground_truth, images=tuple(sorted(ground_truth.images, key=lambda image: int(image.image_id))))
    return ground_truth


def held_out(data: DataSpec, *, told: Told) -> Dataset:
    """What a training job measures on, checked: the very images that `train` held out."""
    threads = 2 * available_cores()
    checked: CheckedData = read_data(data, rules=DecodeRules(), threads=threads, told=_images_told(told))
    return checked.val


def checked_ground_truth(ground_truth: Dataset, *, told: Told) -> Dataset:
    """Every image opened, and what cannot be measured on left out."""
    threads = 2 * available_cores()
    return check_dataset(
        ground_truth, on_problem=ON_PROBLEM, rules=DecodeRules(), threads=threads, told=_images_told(told)
    )


def prepared(spec: ModelSpec, *, task: Task) -> ModelInfo:
    """The card of a model that is there and does this task, which is known before an image is opened.

    Raises ModelError, and UsageError for a model of the other task.
    """
    info = models.prepare(spec)
    if info.kind != _KIND[task]:
        raise UsageError(
            f"{model_name(spec)} gives {info.kind} tags, and the data are to {task}; name other data or another model"
        )
    return info


def evaluate_model(
    spec: ModelSpec, ground_truth: Dataset, *, data: str, device: str = "auto", told: Told
) -> Evaluation:
    """Let a model look at images that were checked, and judge it. An image at which it fails is left out and told.

    A classifier says its score for every label, whatever the spec's limits; a detector what its spec says, by default
    as a run would. Raises what `prepared` raises.
    """
    info = prepared(spec, task=ground_truth.task)
    floor, most = spec.score_floor, spec.max_tags or _MOST_TAGS[ground_truth.task]
    if ground_truth.task == "classify":
        floor, most = 0.0, len(info.labels)
    asked = spec.model_copy(update={"score_floor": floor, "max_tags": most})
    model = models.load(asked, runtime=_runtime(checked_device(device)))
    total = len(ground_truth.images)
    outcomes = predict(
        [image.uri for image in ground_truth.images],
        [(info, model)],
        storage_options=ground_truth.storage_options,
        told=lambda done: told(f"evaluating: {done:,} of {total:,} images"),
    )
    ground_truth = _without_failed(ground_truth, outcomes)
    return _evaluation(
        tags_table(outcomes, run_id=""),
        ground_truth,
        ground_truth.images,
        model=info.name,
        digest=info.digest,
        data=data,
        settings={"score_floor": floor, "max_tags": most},
    )


def evaluate_out(
    out: str, ground_truth: Dataset, *, data: str, model: str = "", storage_options: Mapping[str, Any] | None = None
) -> Evaluation:
    """Judge one model's tags in the tables of an OUT. `ground_truth` is as it was opened; its images are not needed.

    `model` is its name or `name@digest`; "" where only one can be meant. Images of the truth that are not in OUT, or
    failed there, are left out and counted. Raises UsageError where nothing fits.
    """
    uri = absolute_uri(out).rstrip("/")
    store, layout = open_store(uri, storage_options), Layout(uri)
    job = read_job(store=store, layout=layout)
    if job is None:
        raise no_tables(out)
    chosen = _chosen_model(job, task=ground_truth.task, model=model, out=out)
    with open_database(store=store, layout=layout) as database:
        define_committed(database)
        images = database.connection.sql(_IMAGES).to_arrow_table()
        tags = database.connection.sql(_TAGS, params=[chosen["id"]]).to_arrow_table()
    rows = {row["uri"]: row for row in images.to_pylist()}
    there = counterparts([image.uri for image in ground_truth.images], rows, out=out)
    absent = Opened(problem="missing_image", detail=f"is labelled, and is not in {out}")
    opened = {
        image.uri: _opened(rows[there[image.uri]], image) if image.uri in there else absent
        for image in ground_truth.images
    }
    checked = check_opened(ground_truth, opened, on_problem=ON_PROBLEM)
    name, _, digest = chosen["id"].rpartition("@")
    spec = chosen["spec"]
    floor, most = spec["score_floor"], spec["max_tags"] or _MOST_TAGS[ground_truth.task]
    return _evaluation(
        tags,
        checked,
        [replace(image, uri=there[image.uri]) for image in checked.images],
        model=name,
        digest=digest,
        data=data,
        settings={"tables": out, "score_floor": floor, "max_tags": most},
        note=_note(ground_truth.task, floor=floor, most=most),
        uris_in_out=there,
    )


def _evaluation(
    tags: pa.Table,
    ground_truth: Dataset,
    images: Sequence[LabelledImage],
    *,
    model: str,
    digest: str,
    data: str,
    settings: Mapping[str, Any],
    note: str = "",
    uris_in_out: Mapping[str, str] | None = None,
) -> Evaluation:
    """`images` are those of the truth, with their URIs as the tags have them."""
    return Evaluation(
        model=model,
        digest=digest,
        data=data,
        data_digest=data_digest(ground_truth),
        ground_truth=ground_truth,
        score=score_tags(tags, images, ground_truth.labels, is_detection=ground_truth.task == "detect"),
        evaluated_at=datetime.now(UTC),
        num_problems=dict(Counter(one.kind for one in ground_truth.problems)),
        settings=settings,
        note=note,
        uris_in_out=uris_in_out or {},
    )


def _chosen_model(job: Mapping[str, Any], *, task: Task, model: str, out: str) -> dict[str, Any]:
    whole = [one for one in job["models"] if one["spec"].get("on", "image") == "image" and one["kind"] == _KIND[task]]
    fitting = [one for one in whole if model in ("", one["id"], one["id"].rpartition("@")[0])]
    if len(fitting) == 1:
        return dict(fitting[0])
    known = ", ".join(one["id"] for one in whole) or f"none that gives {_KIND[task]} tags of whole images"
    if model:
        raise UsageError(f"{out}: no model {model!r} to {task} with; it has {known}")
    if not whole:
        others = ", ".join(one["id"] for one in job["models"])
        raise UsageError(f"{out}: the data are to {task}, and it has {known}, only {others}; name other data")
    raise UsageError(f"{out}: the data are to {task}, and of such models it has {known}; choose one with --model")


def _note(task: Task, *, floor: float, most: int) -> str:
    """What figures made from tables cannot know, in a person's words."""
    written = f"Judged by the tables, which hold the best {most} tags of an image, down to a score of {floor:g}."
    if task == "detect":
        return f"{written} Boxes that the run did not write do not count."
    return (
        f"{written} What the run did not write counts as a score of 0: accuracy and F1 are the model's own wherever "
        "its best score was written; AUC, its curves and thresholds are of the tables, not of all that the model says. "
        "For those, evaluate the model itself."
    )


def _opened(row: Mapping[str, Any], image: LabelledImage) -> Opened:
    """What the run found of an image; of what it did not note, what the annotations say."""
    if row["status"] == Status.FAILED:
        return Opened(problem="undecodable", detail=f"failed in the run: {row['code']}: {row['message']}")
    return Opened(
        width=row["width"] or image.width,
        height=row["height"] or image.height,
        orientation=row["orientation"] or 1,
        content_hash=row["content_hash"] or row["uri"],
    )


def _without_failed(ground_truth: Dataset, outcomes: Sequence[ImageResult]) -> Dataset:
    """As in tables: an image that failed was not judged, whatever is on it."""
    failures = [one.failure for one in outcomes]
    problems = [
        Problem(kind="undecodable", uri=image.uri, detail=f"failed: {failure.code}: {failure.message}")
        for image, failure in zip(ground_truth.images, failures, strict=True)
        if failure is not None
    ]
    kept = [image for image, failure in zip(ground_truth.images, failures, strict=True) if failure is None]
    if not kept:
        raise UsageError(f"the model could look at none of the {len(failures):,} images, such as {problems[0]}")
    return replace(ground_truth, images=tuple(kept), problems=(*ground_truth.problems, *problems))


def checked_device(asked: str) -> str:
    """Where a model shall run: as asked, if this machine has it. Raises UsageError."""
    import torch

    has_gpu = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if has_gpu else "cpu"
    if asked not in ("cpu", "cuda"):
        raise UsageError(f"the device is {asked!r}; it must be auto, cpu or cuda")
    if asked == "cuda" and not has_gpu:
        raise UsageError("the device is 'cuda', and torch finds no GPU here; leave it out, or say cpu")
    return asked


def _runtime(device: str) -> Runtime:
    """As a run on this machine would have it."""
    return Runtime(device=device, engine=engine_on(device), threads=available_cores())


def _images_told(told: Told) -> Callable[[int, int], None]:
    return lambda done, total: told(f"checking the labelled images: {done:,} of {total:,}")

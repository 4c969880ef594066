"""A checkpoint's model.json, and the card of the model that it describes: what a driver must know, without torch.

The file is checked against itself (its digest) and against the task that is asked for; all that is wrong is told at
once. Which pixels a detector wants follows from its builder's table and what the file says otherwise, so no network is
built for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from batchtag.config.base import Spec
from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError, StorageError, UsageError
from batchtag.models.downloads import cache_folder, check_file, fetch_file
from batchtag.models.info import digest_of, make_info, tag_labels
from batchtag.models.torchvision.zoo import builder, task_of
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN, SMALL_SIZES
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of
from batchtag.types import InputResolution, ModelInfo

MODEL, WEIGHTS = "model.json", "weights.safetensors"

_BACKGROUND = ("__background__", "")
_OURS = ("weights", "weights_backbone", "progress", "num_classes")
_Rgb = tuple[float, float, float]
_Score = Annotated[float, Field(ge=0, le=1)]


class DetectorInput(Spec):
    """A detector's preprocessing, in the words of its builder's arguments; what is absent is as the builder has it."""

    min_size: int | None = Field(default=None, ge=1)
    max_size: int | None = Field(default=None, ge=1)
    image_mean: _Rgb | None = None
    image_std: _Rgb | None = None


class ClassifierInput(Spec):
    """A classifier's preprocessing, as `classifier.Preprocessing` has it."""

    resize_size: int = Field(ge=1)
    crop_size: int = Field(ge=1)
    mean: _Rgb
    std: _Rgb
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True


class _AnyFile(Spec):
    """model.json. `arguments` are the builder's own; the number of classes is the number of labels."""

    format: Literal[1] = 1
    architecture: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    labels: list[str] = Field(min_length=1)
    batch_norm_eps: float | None = Field(default=None, ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)
    thresholds: dict[str, _Score] = Field(default_factory=dict)
    """Label -> the score from which a reader should believe it."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    digest: str = ""

    def own_digest(self) -> str:
        """Over everything that decides the answers, and not over metrics, thresholds, versions and notes."""
        return digest_of(self.model_dump(mode="json", exclude={"digest", "metrics", "thresholds", "extra", "versions"}))


class DetectorFile(_AnyFile):
    task: Literal["detect"] = "detect"
    preprocessing: DetectorInput


class ClassifierFile(_AnyFile):
    task: Literal["classify"] = "classify"
    preprocessing: ClassifierInput


ModelFile = DetectorFile | ClassifierFile
_FILE: TypeAdapter[ModelFile] = TypeAdapter(Annotated[ModelFile, Field(discriminator="task")])


def prepare(spec: CheckpointSpec) -> ModelInfo:
    """The card, with the weights on this machine and checked against model.json."""
    described = read_file(spec)
    weights_file(spec, described)
    return info_of(spec, described)


def describe(spec: CheckpointSpec) -> ModelInfo:
    """The card by model.json alone."""
    return info_of(spec, read_file(spec))


def read_file(spec: CheckpointSpec) -> ModelFile:
    """model.json of the folder, checked against itself and against the task asked for."""
    uri = join_uri(spec.uri, MODEL)
    try:
        text = open_store(uri, spec.storage_options).read(uri, max_bytes=64 * 2**20).data
    except StorageError as error:
        raise ModelError(
            f"{spec.uri}: is no checkpoint that can be read: {error.message}. A checkpoint is a folder with {MODEL} "
            f"and {WEIGHTS}; a published model is named without a slash, as `batchtag models` lists it"
        ) from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{uri}: is not JSON: {error}; the checkpoint is damaged") from error
    described = parsed(content, origin=uri)
    if described.digest != described.own_digest():
        raise ModelError(
            f"{uri}: its content has digest {described.own_digest()}, it says {described.digest or 'none'}; the file "
            "was changed after it was saved. Save the checkpoint again"
        )
    task_of(described.architecture, asked=spec.task)
    return described


def parsed(content: object, *, origin: str) -> ModelFile:
    """Plain data as a model file, or one ModelError with every mistake in it."""
    try:
        described = _FILE.validate_python(content)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise ModelError(f"{origin}: does not describe a model: {'; '.join(lines)}") from None
    mistakes = [
        f"arguments.{name} is not to be given; it follows from the rest"
        for name in _OURS
        if name in described.arguments
    ]
    try:
        task = task_of(described.architecture)
    except UsageError as error:
        raise ModelError(f"{origin}: does not describe a model: {error.message}") from error
    if task != described.task:
        mistakes.append(f"task is {described.task!r}, and {described.architecture} can only {task}")
    elif task == "detect" and described.labels[0] not in _BACKGROUND:
        mistakes.append(
            f"labels[0] is {described.labels[0]!r}; label 0 of a detector is its background, '__background__'"
        )
    tags = sorted(set(tag_labels(described.labels, task=task)) - {""})
    mistakes += [
        f"thresholds has {label!r}, which is none of its labels ({_few(tags)})"
        for label in described.thresholds
        if label not in tags
    ]
    if mistakes:
        raise ModelError(f"{origin}: does not describe a model: {'; '.join(mistakes)}")
    return described


def _few(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:8])) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")


def info_of(spec: CheckpointSpec, described: ModelFile) -> ModelInfo:
    """The card of the model that a file describes."""
    return make_info(
        spec,
        task=described.task,
        facts={"checkpoint": described.digest},
        labels=tag_labels(described.labels, task=described.task),
        input_resolution=_detector_resolution(described)
        if isinstance(described, DetectorFile)
        else _classifier_resolution(described),
        gflops=_published_gflops(described.architecture),
        thresholds=described.thresholds,
    )


def _classifier_resolution(described: ClassifierFile) -> InputResolution:
    return InputResolution(mode="cover", shorter_px=described.preprocessing.resize_size)


def _detector_resolution(described: DetectorFile) -> InputResolution:
    """As the built network has it: what the file says of its input, else its builder's arguments, else the builder."""
    if described.architecture == SMALL_FASTER_RCNN:
        facts: dict[str, Any] = {"fixed_size": None} | SMALL_SIZES
    else:
        one = builder(described.architecture)
        facts = dict(one.weights[one.default].preprocessing)
    facts |= described.arguments | described.preprocessing.model_dump(exclude_none=True)
    if facts["fixed_size"] is not None:
        width, height = facts["fixed_size"]
        return InputResolution(mode="stretch", shorter_px=height, longer_px=width)
    shorter: Any = facts["min_size"]
    shorter_px = shorter[-1] if isinstance(shorter, list) else shorter
    return InputResolution(mode="fit", shorter_px=shorter_px, longer_px=facts["max_size"])


def _published_gflops(architecture: str) -> float:
    """The work for one image with the builder's best published weights; 0 if nobody says."""
    if architecture == SMALL_FASTER_RCNN:
        return 0.0
    one = builder(architecture)
    return one.weights[one.default].gflops


def weights_file(spec: CheckpointSpec, described: ModelFile) -> Path:
    """The checked weights on this machine: where they are, if they are local, else in this node's cache."""
    uri = join_uri(spec.uri, WEIGHTS)
    expected = described.weights_sha256
    blame = f"{MODEL} says {expected[:16]}...; the checkpoint is damaged or mixed up. Copy or save it again"
    try:
        if scheme_of(uri) == "file":
            return check_file(Path(absolute_uri(uri)), sha256_prefix=expected, blame=blame)
        path = cache_folder() / "batchtag" / f"{expected}.safetensors"
        return fetch_file(uri, path, sha256_prefix=expected, blame=blame, storage_options=spec.storage_options)
    except StorageError as error:
        raise ModelError(f"{uri}: the weights of the checkpoint cannot be read: {error.message}") from error

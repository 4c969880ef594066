"""The file model.json of a checkpoint: its contents, and its checks. Knows no torch.

The file is checked against itself (its digest) and against the task that is asked for. All mistakes are reported at
once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from batchtag.config.base import Spec
from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError, StorageError, UsageError
from batchtag.models.info import compute_digest, tag_labels
from batchtag.models.torchvision.zoo import resolve_task
from batchtag.storage import join_uri, open_store

MODEL_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
"""Names of the two files of a checkpoint."""

_BACKGROUND = ("__background__", "")
"""Accepted names of label 0 of a detector."""
_DERIVED_ARGUMENTS = ("weights", "weights_backbone", "progress", "num_classes")
"""Arguments of a builder that follow from the rest of the file."""
_MAX_FILE_BYTES = 64 * 2**20
_Rgb = tuple[float, float, float]
_Score = Annotated[float, Field(ge=0, le=1)]


class DetectorInput(Spec):
    """A detector's preprocessing, by the names of its builder's arguments. What is absent is the builder's default."""

    min_size: int | None = Field(default=None, ge=1)
    max_size: int | None = Field(default=None, ge=1)
    image_mean: _Rgb | None = None
    image_std: _Rgb | None = None


class ClassifierInput(Spec):
    """A classifier's preprocessing, with the fields of `preprocessing.Preprocessing`."""

    resize_size: int = Field(ge=1)
    crop_size: int = Field(ge=1)
    mean: _Rgb
    std: _Rgb
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True


class _AnyModelFile(Spec):
    """model.json. `arguments` are the builder's own; the number of classes is the number of labels."""

    format: Literal[1] = 1
    architecture: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    labels: list[str] = Field(min_length=1)
    batch_norm_eps: float | None = Field(default=None, ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)
    thresholds: dict[str, _Score] = Field(default_factory=dict)
    """By label, the score from which a reader should trust it."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    digest: str = ""

    def compute_own_digest(self) -> str:
        """Compute the digest of everything that decides the predictions.

        Metrics, thresholds, versions and notes are left out.
        """
        not_covered = {"digest", "metrics", "thresholds", "extra", "versions"}
        return compute_digest(self.model_dump(mode="json", exclude=not_covered))


class DetectorFile(_AnyModelFile):
    """model.json of a detector."""

    task: Literal["detect"] = "detect"
    preprocessing: DetectorInput


class ClassifierFile(_AnyModelFile):
    """model.json of a classifier."""

    task: Literal["classify"] = "classify"
    preprocessing: ClassifierInput


ModelFile = DetectorFile | ClassifierFile
_MODEL_FILE_TYPE: TypeAdapter[ModelFile] = TypeAdapter(Annotated[ModelFile, Field(discriminator="task")])


def read_model_file(spec: CheckpointSpec) -> ModelFile:
    """Read model.json of a checkpoint, and check it against itself and against the task asked for.

    Raises ModelError for a folder that is not a checkpoint, for a damaged file, and for one that was changed. Raises
    UsageError if the model has another task.
    """
    uri = join_uri(spec.uri, MODEL_FILE)
    try:
        text = open_store(uri, spec.storage_options).read(uri, max_bytes=_MAX_FILE_BYTES).data
    except StorageError as error:
        raise ModelError(
            f"{spec.uri}: is not a checkpoint that can be read: {error.message}. A checkpoint is a folder with "
            f"{MODEL_FILE} and {WEIGHTS_FILE}. Names of published models (`batchtag models`) have no slash"
        ) from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{uri}: is not JSON: {error}; the checkpoint is damaged") from error
    model_file = parse_model_file(content, origin=uri)
    if model_file.digest != model_file.compute_own_digest():
        raise ModelError(
            f"{uri}: its content has digest {model_file.compute_own_digest()}, but it says "
            f"{model_file.digest or 'none'}; the file was changed after it was saved. Save the checkpoint again"
        )
    resolve_task(model_file.architecture, expected=spec.task)
    return model_file


def parse_model_file(content: object, *, origin: str) -> ModelFile:
    """Turn plain data into a model file. Raises one ModelError with all mistakes; `origin` begins its message."""
    try:
        model_file = _MODEL_FILE_TYPE.validate_python(content)
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        raise ModelError(f"{origin}: does not describe a model: {'; '.join(mistakes)}") from None
    try:
        mistakes = _find_mistakes(model_file)
    except UsageError as error:
        raise ModelError(f"{origin}: does not describe a model: {error.message}") from error
    if mistakes:
        raise ModelError(f"{origin}: does not describe a model: {'; '.join(mistakes)}")
    return model_file


def _find_mistakes(model_file: ModelFile) -> list[str]:
    """Return what contradicts itself in a file. Raises UsageError if no such builder exists."""
    task = resolve_task(model_file.architecture)
    mistakes = [
        f"arguments.{name} must be left out; it follows from the rest of the file"
        for name in _DERIVED_ARGUMENTS
        if name in model_file.arguments
    ]
    if task != model_file.task:
        mistakes.append(f"task is {model_file.task!r}, but {model_file.architecture} can only {task}")
    elif task == "detect" and model_file.labels[0] not in _BACKGROUND:
        mistakes.append(
            f"labels[0] is {model_file.labels[0]!r}; label 0 of a detector must be its background, '__background__'"
        )
    tags = sorted(set(tag_labels(model_file.labels, task=task)) - {""})
    mistakes += [
        f"thresholds has {label!r}, which is not one of its labels ({_list_some(tags)})"
        for label in model_file.thresholds
        if label not in tags
    ]
    return mistakes


def _list_some(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:8])) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")

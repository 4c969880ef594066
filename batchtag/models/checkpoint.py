"""Trained weights with everything that must travel with them: a folder with model.json and weights.safetensors.

Nothing in it is executed when it is read: no pickle, no import path, only a torchvision builder and its arguments. The
weights are written first and model.json, which holds their hash, last; so a folder that was copied or overwritten half
is refused, never believed. Remote weights are kept on the node by their hash, so a cluster fetches them once a node.
What an evaluation says later (metrics, thresholds) is in model.json too, and outside the digest: it changes no answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
import torchvision
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from batchtag import __version__
from batchtag.border import Spec
from batchtag.errors import ModelError, StorageError, UsageError
from batchtag.models import architectures
from batchtag.models.cards import digest_of, make_card, most_tags, tag_labels
from batchtag.models.classifier import Classifier, Preprocessing
from batchtag.models.detector import Detector
from batchtag.models.published import SMALL_FASTER_RCNN, builder, task_of
from batchtag.models.runtime import Runtime
from batchtag.models.spec import CheckpointSpec, Task
from batchtag.models.weights import cache_folder, check_file, fetch_file
from batchtag.records import ModelCard
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of

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


def save_checkpoint(
    folder_uri: str,
    *,
    architecture: str,
    arguments: Mapping[str, Any],
    labels: Sequence[str],
    task: Task,
    preprocessing: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    metrics: Mapping[str, float] | None = None,
    thresholds: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    batch_norm_eps: float | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Writes the folder and gives the checkpoint's digest, 12 hex.

    A detector's `labels[0]` is its background ("" or "__background__"). `preprocessing` has the fields of DetectorInput
    or ClassifierInput. `batch_norm_eps` is needed where the network runs with another eps than its builder's: a network
    fine-tuned from FasterRCNN_ResNet50_FPN COCO_V1 has 0.0. `thresholds` has scores by label; a metric that is no
    number is left out. Raises ModelError, before anything is written, for what would not load again.
    """
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state_dict.items()}
    data = safetensors.torch.save(tensors)
    uri = join_uri(absolute_uri(folder_uri), MODEL)
    described = _parsed(
        {
            "format": 1,
            "task": task,
            "architecture": architecture,
            "arguments": dict(arguments),
            "labels": list(labels),
            "preprocessing": dict(preprocessing),
            "batch_norm_eps": batch_norm_eps,
            "metrics": _numbers(metrics or {}),
            "thresholds": dict(thresholds or {}),
            "extra": dict(extra or {}),
            "versions": {"batchtag": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
            "weights_sha256": hashlib.sha256(data).hexdigest(),
        },
        origin=uri,
    )
    _filled(_empty_network(described, {}, origin=uri), tensors, origin=uri)
    described = described.model_copy(update={"digest": described.own_digest()})
    store = open_store(uri, storage_options)
    store.write(join_uri(absolute_uri(folder_uri), WEIGHTS), data)
    store.write(uri, described.model_dump_json(indent=2).encode() + b"\n")
    return described.digest


def note_results(
    folder_uri: str,
    *,
    metrics: Mapping[str, float] | None = None,
    thresholds: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Writes what an evaluation found into model.json. Weights and digest stay; what is not given stays as it was.

    What is given replaces what was there, since figures of two evaluations are not to be mixed. Raises ModelError for
    a folder that is no checkpoint, and for thresholds of labels that it does not have.
    """
    spec = CheckpointSpec(uri=absolute_uri(folder_uri), storage_options=dict(storage_options or {}))
    uri = join_uri(spec.uri, MODEL)
    content = _read(spec).model_dump(mode="json")
    if metrics is not None:
        content["metrics"] = _numbers(metrics)
    if thresholds is not None:
        content["thresholds"] = dict(thresholds)
    if extra is not None:
        content["extra"] = dict(extra)
    described = _parsed(content, origin=uri)
    open_store(uri, storage_options).write(uri, described.model_dump_json(indent=2).encode() + b"\n")


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no nan, which is what is measured of a class without examples."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def prepare(spec: CheckpointSpec) -> ModelCard:
    """The card, with the weights on this machine and checked against model.json."""
    described = _read(spec)
    _weights_file(spec, described)
    return _card(spec, described)


def describe(spec: CheckpointSpec) -> ModelCard:
    """The card by model.json alone."""
    return _card(spec, _read(spec))


def load(spec: CheckpointSpec, *, runtime: Runtime) -> Detector | Classifier:
    """The model, ready to look, in float32 also where its weights are stored in float16."""
    described = _read(spec)
    network = _network(spec, described)
    card = _card(spec, described)
    if isinstance(described, DetectorFile):
        return Detector(network, card=card, runtime=runtime)
    return Classifier(
        network,
        card=card,
        preprocessing=Preprocessing(**described.preprocessing.model_dump()),
        score_floor=spec.score_floor,
        max_tags=most_tags(spec, task=described.task),
        runtime=runtime,
    )


def network_of(spec: CheckpointSpec) -> nn.Module:
    """The network with its weights, on the CPU in float32: to go on training from."""
    return _network(spec, _read(spec))


def _network(spec: CheckpointSpec, described: ModelFile) -> nn.Module:
    uri = join_uri(spec.uri, WEIGHTS)
    try:
        tensors = safetensors.torch.load_file(_weights_file(spec, described))
    except SafetensorError as error:
        raise ModelError(f"{uri}: is not a safetensors file: {error}") from error
    return _filled(_empty_network(described, _limits(spec, described), origin=spec.uri), tensors, origin=uri)


def _read(spec: CheckpointSpec) -> ModelFile:
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
    described = _parsed(content, origin=uri)
    if described.digest != described.own_digest():
        raise ModelError(
            f"{uri}: its content has digest {described.own_digest()}, it says {described.digest or 'none'}; the file "
            "was changed after it was saved. Save the checkpoint again"
        )
    task_of(described.architecture, asked=spec.task)
    return described


def _parsed(content: object, *, origin: str) -> ModelFile:
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


def _arguments(described: ModelFile) -> dict[str, Any]:
    """All that the builder is told, apart from the limits of one job."""
    arguments = architectures.untrained_arguments(described.architecture, task=described.task)
    arguments |= described.arguments
    if isinstance(described, DetectorFile):
        arguments |= described.preprocessing.model_dump(exclude_none=True)
    return arguments | {"num_classes": len(described.labels)}


def _limits(spec: CheckpointSpec, described: ModelFile) -> dict[str, Any]:
    if described.task == "classify":
        return {}
    most = most_tags(spec, task=described.task)
    return architectures.limits(described.architecture, score_floor=spec.score_floor, max_tags=most)


def _empty_network(described: ModelFile, limits: Mapping[str, Any], *, origin: str) -> nn.Module:
    try:
        network = architectures.build(described.architecture, _arguments(described) | dict(limits))
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{origin}: {described.architecture} cannot be built as described: {error}") from error
    if described.batch_norm_eps is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.eps = described.batch_norm_eps
    return network


def _filled(network: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> nn.Module:
    """The network with these weights. torch converts while copying, so float16 weights become float32."""
    try:
        architectures.fill(network, tensors)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ModelError(f"{origin}: these are not the weights of this architecture: {text[:400]}") from error
    return network


def _card(spec: CheckpointSpec, described: ModelFile) -> ModelCard:
    if isinstance(described, DetectorFile):
        arguments = _arguments(described) | _limits(spec, described)
        need, _ = architectures.detector_need(described.architecture, arguments)
    else:
        need = Preprocessing(**described.preprocessing.model_dump()).need
    return make_card(
        spec,
        task=described.task,
        facts={"checkpoint": described.digest},
        labels=tag_labels(described.labels, task=described.task),
        need=need,
        gflops=_published_gflops(described.architecture),
        thresholds=described.thresholds,
    )


def _published_gflops(architecture: str) -> float:
    """The work for one image with the builder's best published weights; 0 if nobody says."""
    if architecture == SMALL_FASTER_RCNN:
        return 0.0
    one = builder(architecture)
    return one.weights[one.default].gflops


def _weights_file(spec: CheckpointSpec, described: ModelFile) -> Path:
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

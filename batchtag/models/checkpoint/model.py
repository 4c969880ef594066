"""Trained weights with everything that must travel with them: a folder with model.json and weights.safetensors.

Nothing in it is executed when it is read: no pickle, no import path, only a torchvision builder and its arguments. The
weights are written first and model.json, which holds their hash, last; so a folder that was copied or overwritten half
is refused, never believed. Remote weights are kept on the node by their hash, so a cluster fetches them once a node.
What an evaluation says later (metrics, thresholds) is in model.json too, and outside the digest: it changes no answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from batchtag import __version__
from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.checkpoint.model_file import (
    MODEL,
    WEIGHTS,
    DetectorFile,
    ModelFile,
    info_of,
    parsed,
    read_file,
    weights_file,
)
from batchtag.models.classifier import Classifier
from batchtag.models.detector import Detector
from batchtag.models.info import most_tags
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.tasks import Task


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
    described = parsed(
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
    content = read_file(spec).model_dump(mode="json")
    if metrics is not None:
        content["metrics"] = _numbers(metrics)
    if thresholds is not None:
        content["thresholds"] = dict(thresholds)
    if extra is not None:
        content["extra"] = dict(extra)
    described = parsed(content, origin=uri)
    open_store(uri, storage_options).write(uri, described.model_dump_json(indent=2).encode() + b"\n")


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no nan, which is what is measured of a class without examples."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def load(spec: CheckpointSpec, *, runtime: Runtime) -> Detector | Classifier:
    """The model, ready to look, in float32 also where its weights are stored in float16."""
    described = read_file(spec)
    network = _network(spec, described)
    info = info_of(spec, described)
    if isinstance(described, DetectorFile):
        return Detector(network, info=info, runtime=runtime)
    return Classifier(
        network,
        info=info,
        preprocessing=Preprocessing(**described.preprocessing.model_dump()),
        score_floor=spec.score_floor,
        max_tags=most_tags(spec, task=described.task),
        runtime=runtime,
    )


def network_of(spec: CheckpointSpec) -> nn.Module:
    """The network with its weights, on the CPU in float32: to go on training from."""
    return _network(spec, read_file(spec))


def _network(spec: CheckpointSpec, described: ModelFile) -> nn.Module:
    uri = join_uri(spec.uri, WEIGHTS)
    try:
        tensors = safetensors.torch.load_file(weights_file(spec, described))
    except SafetensorError as error:
        raise ModelError(f"{uri}: is not a safetensors file: {error}") from error
    return _filled(_empty_network(described, _limits(spec, described), origin=spec.uri), tensors, origin=uri)


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

"""The networks of checkpoints: built from model.json, and filled with weights.safetensors.

Nothing in a checkpoint is executed when it is read: it has no pickle and no import path, only the name of a torchvision
builder and its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.checkpoint.checkpoint_info import fetch_checkpoint_weights, make_checkpoint_info
from batchtag.models.checkpoint.model_file import WEIGHTS_FILE, DetectorFile, ModelFile, read_model_file
from batchtag.models.classifier import Classifier
from batchtag.models.detector import Detector
from batchtag.models.info import resolve_max_tags
from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision.architectures import (
    build_network,
    fill_network,
    limit_arguments,
    untrained_arguments,
)
from batchtag.storage import join_uri


def load(spec: CheckpointSpec, *, runtime: Runtime) -> Detector | Classifier:
    """Build the model, ready to predict; in float32, also if its weights are stored in float16."""
    model_file = read_model_file(spec)
    network = _load_network(spec, model_file)
    info = make_checkpoint_info(spec, model_file)
    if isinstance(model_file, DetectorFile):
        return Detector(network, info=info, runtime=runtime)
    return Classifier(
        network,
        info=info,
        preprocessing=Preprocessing(**model_file.preprocessing.model_dump()),
        score_floor=spec.score_floor,
        max_tags=resolve_max_tags(spec, task=model_file.task),
        runtime=runtime,
    )


def load_checkpoint_network(spec: CheckpointSpec) -> nn.Module:
    """Build the network with its weights, on the CPU in float32, as the starting point of a training."""
    return _load_network(spec, read_model_file(spec))


def fill_checkpoint_network(
    model_file: ModelFile,
    tensors: Mapping[str, Tensor],
    *,
    limits: Mapping[str, Any] | None = None,
    origin: str,
) -> nn.Module:
    """Build the network that a file describes, with these weights, on the CPU in float32.

    `limits` are a detector's limits of one job. Weights in float16 become float32 while they are copied. Raises
    ModelError if the network cannot be built or the weights do not fit; `origin` begins its message.
    """
    network = _build_empty_network(model_file, limits or {}, origin=origin)
    try:
        fill_network(network, tensors)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ModelError(f"{origin}: these are not the weights of this architecture: {text[:400]}") from error
    return network


def _load_network(spec: CheckpointSpec, model_file: ModelFile) -> nn.Module:
    uri = join_uri(spec.uri, WEIGHTS_FILE)
    try:
        tensors = safetensors.torch.load_file(fetch_checkpoint_weights(spec, model_file))
    except SafetensorError as error:
        raise ModelError(f"{uri}: is not a safetensors file: {error}") from error
    return fill_checkpoint_network(model_file, tensors, limits=_limit_arguments(spec, model_file), origin=uri)


def _build_empty_network(model_file: ModelFile, limits: Mapping[str, Any], *, origin: str) -> nn.Module:
    try:
        network = build_network(model_file.architecture, _builder_arguments(model_file) | dict(limits))
    except (TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{origin}: {model_file.architecture} cannot be built as described: {error}") from error
    if model_file.batch_norm_eps is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.eps = model_file.batch_norm_eps
    return network


def _builder_arguments(model_file: ModelFile) -> dict[str, Any]:
    """Return all arguments of the builder, except the limits of one job."""
    arguments = untrained_arguments(model_file.architecture, task=model_file.task)
    arguments |= model_file.arguments
    if isinstance(model_file, DetectorFile):
        arguments |= model_file.preprocessing.model_dump(exclude_none=True)
    return arguments | {"num_classes": len(model_file.labels)}


def _limit_arguments(spec: CheckpointSpec, model_file: ModelFile) -> dict[str, Any]:
    if model_file.task == "classify":
        return {}
    max_tags = resolve_max_tags(spec, task=model_file.task)
    return limit_arguments(model_file.architecture, score_floor=spec.score_floor, max_tags=max_tags)

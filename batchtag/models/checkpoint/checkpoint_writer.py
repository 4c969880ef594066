"""Writing checkpoints: trained weights with everything that belongs to them, as model.json and weights.safetensors.

The weights are written first. model.json, which has their hash, is written last, so a folder that is only half copied
or half overwritten is refused and never used. The results of a later evaluation (metrics, thresholds) are in model.json
too, but outside the digest, because they change no prediction.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor

from batchtag import __version__
from batchtag.config.model import CheckpointSpec
from batchtag.models.checkpoint.checkpoint_model import fill_checkpoint_network
from batchtag.models.checkpoint.model_file import MODEL_FILE, WEIGHTS_FILE, parse_model_file, read_model_file
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.tasks import Task


@dataclass(frozen=True, kw_only=True)
class CheckpointContent:
    """A trained network, ready to be written.

    `architecture` is the name of a builder, and `arguments` are the arguments that differ from its defaults. A
    detector's `labels[0]` is its background ("" or "__background__"). `preprocessing` has the fields of
    `model_file.DetectorInput` or `ClassifierInput`. `batch_norm_eps` is needed if the network runs with another eps
    than its builder's: one that is fine-tuned from FasterRCNN_ResNet50_FPN COCO_V1 has 0.0. `thresholds` has scores by
    label. Metrics that are not finite are left out.
    """

    architecture: str
    task: Task
    labels: Sequence[str]
    preprocessing: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    batch_norm_eps: float | None = None


def save_checkpoint(
    folder_uri: str, content: CheckpointContent, *, storage_options: Mapping[str, Any] | None = None
) -> str:
    """Write a checkpoint and return its digest, 12 hex digits.

    Raises ModelError, before anything is written, for a checkpoint that could not be loaded again.
    """
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in content.state_dict.items()}
    data = safetensors.torch.save(tensors)
    model_uri = join_uri(absolute_uri(folder_uri), MODEL_FILE)
    # 1. Check that the description is complete, and that the weights fit the network that it describes.
    model_file = parse_model_file(
        _describe(content) | {"weights_sha256": hashlib.sha256(data).hexdigest()}, origin=model_uri
    )
    fill_checkpoint_network(model_file, tensors, origin=model_uri)
    # 2. Write the weights.
    store = open_store(model_uri, storage_options)
    store.write(join_uri(absolute_uri(folder_uri), WEIGHTS_FILE), data)
    # 3. Write model.json, which makes the folder a checkpoint.
    model_file = model_file.model_copy(update={"digest": model_file.compute_own_digest()})
    store.write(model_uri, model_file.model_dump_json(indent=2).encode() + b"\n")
    return model_file.digest


def record_results(
    folder_uri: str,
    *,
    metrics: Mapping[str, float] | None = None,
    thresholds: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write the results of an evaluation into model.json. Weights, digest and arguments that are None do not change.

    New values replace the old ones completely, because figures of two evaluations must not be mixed. Raises ModelError
    for a folder that is not a checkpoint, and for thresholds of labels that the model does not have.
    """
    spec = CheckpointSpec(uri=absolute_uri(folder_uri), storage_options=dict(storage_options or {}))
    model_uri = join_uri(spec.uri, MODEL_FILE)
    content = read_model_file(spec).model_dump(mode="json")
    if metrics is not None:
        content["metrics"] = _finite_only(metrics)
    if thresholds is not None:
        content["thresholds"] = dict(thresholds)
    if extra is not None:
        content["extra"] = dict(extra)
    model_file = parse_model_file(content, origin=model_uri)
    open_store(model_uri, storage_options).write(model_uri, model_file.model_dump_json(indent=2).encode() + b"\n")


def _describe(content: CheckpointContent) -> dict[str, Any]:
    """Return the content of model.json as plain data, without the hash of the weights."""
    return {
        "format": 1,
        "task": content.task,
        "architecture": content.architecture,
        "arguments": dict(content.arguments),
        "labels": list(content.labels),
        "preprocessing": dict(content.preprocessing),
        "batch_norm_eps": content.batch_norm_eps,
        "metrics": _finite_only(content.metrics),
        "thresholds": dict(content.thresholds),
        "extra": dict(content.extra),
        "versions": {"batchtag": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def _finite_only(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out metrics that are not finite, such as the nan of a class without examples: JSON has no nan."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

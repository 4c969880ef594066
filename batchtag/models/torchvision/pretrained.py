"""The networks that torchvision publishes, built with their weights.

The builder itself makes the network even though we fetch the weights, because some properties of published weights are
in the builder's code and not in the file: frozen batch norms whose eps becomes 0, `transform_input`, the image size of
a vision transformer.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from batchtag.config.model import TorchvisionSpec
from batchtag.models.downloads import fetch_weights, sha256_prefix
from batchtag.models.info import resolve_max_tags
from batchtag.models.torchvision.architectures import build_network, limit_arguments, untrained_arguments
from batchtag.models.torchvision.checked_state_dict import use_checked_state_dict
from batchtag.models.torchvision.zoo import get_builder, resolve_task, resolve_weights_name
from batchtag.tasks import Task


def build_pretrained_network(spec: TorchvisionSpec) -> nn.Module:
    """Build the network with its weights, on the CPU in float32, in evaluation mode. Fetches weights if necessary."""
    arguments = _untrained_arguments(spec, task=resolve_task(spec.builder, expected=spec.task))
    if not resolve_weights_name(spec):
        return build_network(spec.builder, arguments, seed=spec.seed)
    weights = fetch_published_weights(spec)
    arguments.pop("init_weights", None)
    with use_checked_state_dict(weights):
        return build_network(spec.builder, arguments | {"weights": weights})


def fetch_published_weights(spec: TorchvisionSpec) -> WeightsEnum:
    """Fetch the weights that the spec names to this machine and check them; return their member of the weights enum."""
    weights: WeightsEnum = get_model_weights(spec.builder)[resolve_weights_name(spec)]
    fetch_weights(weights.url, sha256_prefix(weights.url))
    return weights


def _untrained_arguments(spec: TorchvisionSpec, *, task: Task) -> dict[str, Any]:
    """Return the builder's arguments for an untrained network of the right shape."""
    arguments = untrained_arguments(spec.builder, task=task)
    if task == "detect":
        max_tags = resolve_max_tags(spec, task=task)
        arguments |= limit_arguments(spec.builder, score_floor=spec.score_floor, max_tags=max_tags)
    if spec.builder.startswith("vit_"):
        # A vision transformer has one input size. Its DEFAULT weights may have another one than the builder's default.
        weights_name = resolve_weights_name(spec) or get_builder(spec.builder).default
        arguments["image_size"] = get_model_weights(spec.builder)[weights_name].meta["min_size"][0]
    return arguments

"""The networks that torchvision publishes, built and with their weights.

The builder itself makes the network even when the weights are ours to fetch, because what belongs to published weights
is in its code, not in the file: frozen batch norms whose eps becomes 0, `transform_input`, the image size of a ViT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from batchtag.config.model import TorchvisionSpec
from batchtag.models.downloads import cache_folder, fetch_weights, file_name, load_weights, sha256_prefix
from batchtag.models.info import most_tags
from batchtag.models.torchvision import architectures
from batchtag.models.torchvision.zoo import builder, task_of, weights_name
from batchtag.tasks import Task

_BORROWED = Lock()


def network_of(spec: TorchvisionSpec) -> nn.Module:
    """The network with its weights, on the CPU in float32, in evaluation mode. Fetches the weights if need be."""
    arguments = _arguments(spec, task=task_of(spec.builder, asked=spec.task))
    if not weights_name(spec):
        return architectures.build(spec.builder, arguments, seed=spec.seed)
    weights = fetch(spec)
    arguments.pop("init_weights", None)
    with _our_state_dict(weights):
        return architectures.build(spec.builder, arguments | {"weights": weights})


def fetch(spec: TorchvisionSpec) -> WeightsEnum:
    """The member of the weight enum that the spec names, its file on this machine and checked."""
    weights: WeightsEnum = get_model_weights(spec.builder)[weights_name(spec)]
    fetch_weights(weights.url, sha256_prefix(weights.url))
    return weights


def _arguments(spec: TorchvisionSpec, *, task: Task) -> dict[str, Any]:
    """The builder's arguments for an untrained network of the right shape."""
    arguments = architectures.untrained_arguments(spec.builder, task=task)
    if task == "detect":
        most = most_tags(spec, task=task)
        arguments |= architectures.limits(spec.builder, score_floor=spec.score_floor, max_tags=most)
    if spec.builder.startswith("vit_"):
        # A vision transformer has one input size, and its DEFAULT weights may be for another than the builder's own.
        described = weights_name(spec) or builder(spec.builder).default
        arguments["image_size"] = get_model_weights(spec.builder)[described].meta["min_size"][0]
    return arguments


@contextmanager
def _our_state_dict(weights: WeightsEnum) -> Iterator[None]:
    """Lets a builder load weights from the checked file, without unpickling anything but tensors.

    torchvision 0.29 asks the enum's member for its state dict, and that passes `weights_only=False` on to torch.hub
    and downloads by itself. The member answers from our file meanwhile; a parameter would let this go.
    """
    with _BORROWED:
        weights.get_state_dict = lambda **_: load_weights(cache_folder() / file_name(weights.url))
        try:
            yield
        finally:
            del weights.get_state_dict

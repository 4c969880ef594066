"""Models that torchvision publishes: its builders, with its weights, categories and preprocessing.

The builder itself makes the network even when the weights are ours to fetch, because what belongs to published weights
is in its code, not in the file: frozen batch norms whose eps becomes 0, `transform_input`, the image size of a ViT.
Without weights (`weights: none`) the labels and preprocessing are still those of the builder's best weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from batchtag.errors import ModelError
from batchtag.models import architectures
from batchtag.models.cards import make_card, most_tags, tag_labels
from batchtag.models.classifier import Classifier, Preprocessing
from batchtag.models.detector import Detector
from batchtag.models.runtime import Runtime
from batchtag.models.spec import Task, TorchvisionSpec
from batchtag.models.weights import cache_folder, fetch_weights, file_name, load_weights, sha256_prefix
from batchtag.records import ModelCard

_BORROWED = Lock()


def prepare(spec: TorchvisionSpec) -> ModelCard:
    """The card, with the weights on this machine and checked."""
    card = describe(spec)
    weights = published_weights(spec)
    if weights is not None:
        fetch_weights(weights.url, sha256_prefix(weights.url))
    return card


def load(spec: TorchvisionSpec, *, runtime: Runtime) -> Detector | Classifier:
    """The model, ready to look."""
    task = architectures.task_of(spec.builder, asked=spec.task)
    card = describe(spec)
    network = _network(spec, task=task)
    if task == "detect":
        return Detector(network, card=card, runtime=runtime)
    return Classifier(
        network,
        card=card,
        preprocessing=_preprocessing(spec),
        score_floor=spec.score_floor,
        max_tags=most_tags(spec, task=task),
        runtime=runtime,
    )


def network_of(spec: TorchvisionSpec) -> nn.Module:
    """The network with its weights, on the CPU in float32: to go on training from. Fetches the weights if need be."""
    return _network(spec, task=architectures.task_of(spec.builder, asked=spec.task))


def published_weights(spec: TorchvisionSpec) -> WeightsEnum | None:
    """The member of the builder's weight enum that the spec names; None for "none".

    Raises ModelError with the names there are.
    """
    name = spec.weights.upper()
    if name == "NONE":
        return None
    members = usable_weights(spec.builder)
    if name == "DEFAULT":
        return get_model_weights(spec.builder).DEFAULT
    if name not in members:
        known = ", ".join(["DEFAULT", *members, "none"])
        raise ModelError(f"{spec.builder} has no weights {spec.weights!r}; it has {known}")
    return members[name]


def usable_weights(builder: str) -> dict[str, WeightsEnum]:
    """A builder's published weights by name, less those that tell no categories (VGG16's IMAGENET1K_FEATURES)."""
    return {member.name: member for member in get_model_weights(builder) if member.meta["categories"]}


def describe(spec: TorchvisionSpec) -> ModelCard:
    """The card by torchvision's own table of weights, none of which is fetched."""
    task = architectures.task_of(spec.builder, asked=spec.task)
    weights = published_weights(spec)
    described = _described(spec)
    origin = f"none, seed {spec.seed}" if weights is None else sha256_prefix(weights.url)
    if task == "detect":
        need, preprocessing = architectures.detector_need(spec.builder, _arguments(spec, task=task))
    else:
        need, preprocessing = _preprocessing(spec).need, _preprocessing(spec).facts()
    return make_card(
        spec,
        task=task,
        facts={"builder": spec.builder, "weights": origin, "preprocessing": preprocessing},
        labels=tag_labels(described.meta["categories"], task=task),
        need=need,
        gflops=float(described.meta.get("_ops", 0.0)),
    )


def _described(spec: TorchvisionSpec) -> WeightsEnum:
    """The weights whose categories and preprocessing hold for this model, trained or not."""
    return published_weights(spec) or get_model_weights(spec.builder).DEFAULT


def _preprocessing(spec: TorchvisionSpec) -> Preprocessing:
    return Preprocessing.of_preset(_described(spec).transforms())


def _arguments(spec: TorchvisionSpec, *, task: Task) -> dict[str, Any]:
    """The builder's arguments for an untrained network of the right shape."""
    arguments = architectures.untrained_arguments(spec.builder, task=task)
    if task == "detect":
        most = most_tags(spec, task=task)
        arguments |= architectures.limits(spec.builder, score_floor=spec.score_floor, max_tags=most)
    if spec.builder.startswith("vit_"):
        # A vision transformer has one input size, and its DEFAULT weights may be for another than the builder's own.
        arguments["image_size"] = _described(spec).meta["min_size"][0]
    return arguments


def _network(spec: TorchvisionSpec, *, task: Task) -> nn.Module:
    weights = published_weights(spec)
    arguments = _arguments(spec, task=task)
    if weights is None:
        return architectures.build(spec.builder, arguments, seed=spec.seed)
    fetch_weights(weights.url, sha256_prefix(weights.url))
    arguments.pop("init_weights", None)
    with _our_state_dict(weights):
        return architectures.build(spec.builder, arguments | {"weights": weights})


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

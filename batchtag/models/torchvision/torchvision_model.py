"""Models that torchvision publishes: its builders, with its weights, categories and preprocessing.

The facts that a driver needs are in a table (`zoo`), so torch is imported only where a network is built. A model
without trained weights (`weights: none`) has the labels and preprocessing of the builder's best weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchtag.config.model import TorchvisionSpec
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.downloads import has_weights, sha256_prefix
from batchtag.models.info import make_model_info, resolve_max_tags, tag_labels
from batchtag.models.torchvision.zoo import find_reference_weights, get_builder, resolve_task, resolve_weights_name
from batchtag.types import ModelInfo

if TYPE_CHECKING:
    from batchtag.models.classifier import Classifier
    from batchtag.models.detector import Detector


def prepare(spec: TorchvisionSpec) -> ModelInfo:
    """Fetch the weights to this machine, check them, and return the model info; see `models.prepare`."""
    info = describe(spec)
    weights_name = resolve_weights_name(spec)
    if weights_name and not has_weights(get_builder(spec.builder).weights[weights_name].file):
        from batchtag.models.torchvision.pretrained import fetch_published_weights

        fetch_published_weights(spec)
    return info


def describe(spec: TorchvisionSpec) -> ModelInfo:
    """Return the model info from the table, without fetching weights."""
    task = resolve_task(spec.builder, expected=spec.task)
    builder, weights_name = get_builder(spec.builder), resolve_weights_name(spec)
    reference = find_reference_weights(spec)
    return make_model_info(
        spec,
        task=task,
        facts={
            "builder": spec.builder,
            "weights": sha256_prefix(builder.weights[weights_name].file) if weights_name else f"none, seed {spec.seed}",
            "preprocessing": dict(reference.preprocessing),
        },
        labels=tag_labels(reference.categories, task=task),
        input_resolution=reference.input_resolution,
        gflops=reference.gflops,
    )


def load(spec: TorchvisionSpec, *, runtime: Runtime) -> Detector | Classifier:
    """Build the model, ready to predict; see `models.load`."""
    from batchtag.models.torchvision.pretrained import build_pretrained_network

    info, network = describe(spec), build_pretrained_network(spec)
    if info.kind == "object":
        from batchtag.models.detector import Detector

        return Detector(network, info=info, runtime=runtime)
    from batchtag.models.classifier import Classifier
    from batchtag.models.preprocessing import Preprocessing

    return Classifier(
        network,
        info=info,
        preprocessing=Preprocessing(**find_reference_weights(spec).preprocessing),
        score_floor=spec.score_floor,
        max_tags=resolve_max_tags(spec, task="classify"),
        runtime=runtime,
    )

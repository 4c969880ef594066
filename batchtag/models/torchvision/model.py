"""Models that torchvision publishes: its builders, with its weights, categories and preprocessing.

What a driver must know is in a table (`published`), so torch is imported only where a network is built. Without weights
(`weights: none`) the labels and preprocessing are still those of the builder's best weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchtag.config.model import TorchvisionSpec
from batchtag.models.acceleration.runtime import Runtime
from batchtag.models.downloads import has_weights, sha256_prefix
from batchtag.models.info import make_info, most_tags, tag_labels
from batchtag.models.torchvision.zoo import builder, described_by, task_of, weights_name
from batchtag.types import ModelInfo

if TYPE_CHECKING:
    from batchtag.models.classifier import Classifier
    from batchtag.models.detector import Detector


def prepare(spec: TorchvisionSpec) -> ModelInfo:
    """The card, with the weights on this machine and checked."""
    info = describe(spec)
    name = weights_name(spec)
    if name and not has_weights(builder(spec.builder).weights[name].file):
        from batchtag.models.torchvision.pretrained import fetch

        fetch(spec)
    return info


def describe(spec: TorchvisionSpec) -> ModelInfo:
    """The card by the table of weights, none of which is fetched."""
    task = task_of(spec.builder, asked=spec.task)
    one, name = builder(spec.builder), weights_name(spec)
    described = described_by(spec, one)
    return make_info(
        spec,
        task=task,
        facts={
            "builder": spec.builder,
            "weights": sha256_prefix(one.weights[name].file) if name else f"none, seed {spec.seed}",
            "preprocessing": dict(described.preprocessing),
        },
        labels=tag_labels(described.categories, task=task),
        input_resolution=described.input_resolution,
        gflops=described.gflops,
    )


def load(spec: TorchvisionSpec, *, runtime: Runtime) -> Detector | Classifier:
    """The model, ready to look."""
    from batchtag.models.torchvision.pretrained import network_of

    info, network = describe(spec), network_of(spec)
    if info.kind == "object":
        from batchtag.models.detector import Detector

        return Detector(network, info=info, runtime=runtime)
    from batchtag.models.classifier import Classifier
    from batchtag.models.preprocessing import Preprocessing

    return Classifier(
        network,
        info=info,
        preprocessing=Preprocessing(**described_by(spec, builder(spec.builder)).preprocessing),
        score_floor=spec.score_floor,
        max_tags=most_tags(spec, task="classify"),
        runtime=runtime,
    )

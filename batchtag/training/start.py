"""Where a training's first weights come from, as the job says it."""

from __future__ import annotations

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.config.training import NetworkSpec
from batchtag.storage import absolute_uri, scheme_of
from batchtag.tasks import Task


def start_of(spec: NetworkSpec, *, task: Task) -> TorchvisionSpec | CheckpointSpec | None:
    """The model to take weights from; None for random ones."""
    if spec.start.lower() == "none":
        return None
    if spec.start.startswith("torchvision:"):
        builder, _, weights = spec.start.removeprefix("torchvision:").partition("@")
        return TorchvisionSpec(builder=builder, weights=weights or "DEFAULT")
    if "/" in spec.start or scheme_of(spec.start) != "file":
        return CheckpointSpec(uri=absolute_uri(spec.start), storage_options=spec.storage_options, task=task)
    return TorchvisionSpec(builder=spec.architecture, weights=spec.start, task=task)

"""Models, which turn pixels into tags: the protocol of every kind of model, and the functions that open a model.

Opening has two steps. The driver must know a model's name, digest and labels, and that its weights are available,
before it reads any image: `prepare` fetches and checks the weights, `describe` only reads the facts. Only workers need
the model in memory: `load` builds it.

`detector` and `classifier` do not know the specs of a job, so that code which builds a network itself
(`benchmarks.gpu`) needs neither a job nor pydantic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from batchtag.models.acceleration.runtime import Runtime
from batchtag.types import ModelInfo, Prediction

if TYPE_CHECKING:
    from batchtag.config.model import ModelSpec

__all__ = ["Model", "Runtime", "describe", "load", "prepare"]
ON_CPU = Runtime()
"""One image at a time on the CPU, in torch."""


class Model(Protocol):
    """Predicts tags from pixels. Runs in the worker that holds the device.

    1. `predict` returns one prediction for each image, in the order given; for no images it returns an empty list.
    2. Images are (H, W, 3) uint8 RGB. They may differ in size and may be larger than `info.input_resolution`. `predict`
       modifies none of them.
    3. Boxes are in pixels of the array given, and inside it. Who decoded the image knows the scale to the file.
    4. A prediction does not depend on the other images of the call. Which images share a forward pass is decided here.
    5. Tags below the spec's `score_floor` or beyond its `max_tags` are left out; the others come best first.
    6. An image that the model cannot handle raises an exception; the caller isolates that image.
    """

    info: ModelInfo

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]: ...


def prepare(spec: ModelSpec) -> ModelInfo:
    """Fetch a model's weights to this machine, check them, and return the model info. Runs on the driver.

    Raises ModelError if the weights cannot be fetched or have another digest than expected. Raises UsageError if no
    such builder exists, with the nearest names, or if the model has another task than the spec asks for.
    """
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import torchvision_model

            return torchvision_model.prepare(spec)
        case CheckpointSpec():
            from batchtag.models.checkpoint import checkpoint_info

            return checkpoint_info.prepare(spec)
        case ConstantSpec():
            from batchtag.models import constant

            return constant.prepare(spec)
        case _:
            assert_never(spec)


def describe(spec: ModelSpec) -> ModelInfo:
    """Return the model info that `prepare` returns, without fetching or checking weights.

    Raises UsageError as `prepare` does, and ModelError for a checkpoint whose model.json cannot be read.
    """
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import torchvision_model

            return torchvision_model.describe(spec)
        case CheckpointSpec():
            from batchtag.models.checkpoint import checkpoint_info

            return checkpoint_info.describe(spec)
        case ConstantSpec():
            return prepare(spec)
        case _:
            assert_never(spec)


def load(spec: ModelSpec, *, runtime: Runtime = ON_CPU) -> Model:
    """Build the model, ready to predict. Runs in the worker; fetches the weights if this node does not have them."""
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    if not isinstance(spec, ConstantSpec):
        from batchtag.models.torchvision.import_without_dynamo import import_torchvision

        import_torchvision()
    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import torchvision_model

            return torchvision_model.load(spec, runtime=runtime)
        case CheckpointSpec():
            from batchtag.models.checkpoint import checkpoint_model

            return checkpoint_model.load(spec, runtime=runtime)
        case ConstantSpec():
            from batchtag.models import constant

            return constant.load(spec)
        case _:
            assert_never(spec)

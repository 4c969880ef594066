"""What looks at pixels: the promise every kind of model keeps, and the door to them.

Opening has two steps, because the driver must know a model's name, digest and labels (and that its weights can be had)
before any image is read, and only the workers need it in memory: `prepare` fetches and checks, `load` builds.

Only the door knows specs: who builds a network and looks with it (`benchmarks.gpu`) needs neither a job nor pydantic.
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


class Model(Protocol):
    """Looks at pixels. Runs in the worker that holds the device.

    1. `predict` returns one prediction per image, in the order given; for no images it returns none.
    2. Images are (H, W, 3) uint8 RGB, may differ in size and may be larger than `card.need`; none is modified.
    3. Boxes are in pixels of the array given and inside it; `tables` knows how to get back to the file.
    4. A prediction does not depend on the other images of the call: what shares a forward pass is this room's business.
    5. Findings below the spec's `score_floor` and beyond its `max_tags` are not given; the rest come best first.
    6. One image that cannot be handled raises; the caller isolates it.
    """

    info: ModelInfo

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]: ...


def prepare(spec: ModelSpec) -> ModelInfo:
    """The card of a model, after its weights were fetched to this machine and checked. Runs on the driver.

    Raises ModelError when it cannot be had (weights that cannot be fetched, a digest that does not match), and
    UsageError when there is no such builder, with the nearest names, or the spec asks for what the model is not.
    """
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import model as torchvision_model

            return torchvision_model.prepare(spec)
        case CheckpointSpec():
            from batchtag.models.checkpoint import model_file

            return model_file.prepare(spec)
        case ConstantSpec():
            from batchtag.models import constant

            return constant.prepare(spec)
        case _:
            assert_never(spec)


def describe(spec: ModelSpec) -> ModelInfo:
    """The card that `prepare` gives, with no weights fetched or checked.

    Raises UsageError as that does, and ModelError for a checkpoint whose model.json cannot be read.
    """
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import model as torchvision_model

            return torchvision_model.describe(spec)
        case CheckpointSpec():
            from batchtag.models.checkpoint import model_file

            return model_file.describe(spec)
        case ConstantSpec():
            return prepare(spec)
        case _:
            assert_never(spec)


def load(spec: ModelSpec, *, runtime: Runtime = ON_CPU) -> Model:
    """The model, ready to look. Runs in the worker; fetches the weights if this node lacks them."""
    from batchtag.config.model import CheckpointSpec, ConstantSpec, TorchvisionSpec

    if not isinstance(spec, ConstantSpec):
        from batchtag.models.torchvision.import_without_dynamo import import_torchvision

        import_torchvision()
    match spec:
        case TorchvisionSpec():
            from batchtag.models.torchvision import model as torchvision_model

            return torchvision_model.load(spec, runtime=runtime)
        case CheckpointSpec():
            from batchtag.models.checkpoint import model as checkpoint_model

            return checkpoint_model.load(spec, runtime=runtime)
        case ConstantSpec():
            from batchtag.models import constant

            return constant.load(spec)
        case _:
            assert_never(spec)

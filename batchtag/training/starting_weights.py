"""The starting weights of a network: copied tensor by tensor from another model, wherever name and shape agree.

From COCO's 91 classes to other classes that is everything but the heads; from an ImageNet classifier it is the
backbone; from a checkpoint of the same classes it is everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError
from batchtag.models.checkpoint import checkpoint_model
from batchtag.models.torchvision import architectures, pretrained
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN

_NOT_A_WEIGHT = "num_batches_tracked"
_BATCH_NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """What was copied. `batch_norm_eps` is None if the network keeps the eps of its builder."""

    loaded_tensors: tuple[str, ...]
    new_tensors: tuple[str, ...]
    batch_norm_eps: float | None


def load_starting_weights(
    network: nn.Module, starting_model: TorchvisionSpec | CheckpointSpec, *, architecture: str
) -> LoadedWeights:
    """Copy all tensors that fit from `starting_model` into `network`, and the eps of its batch norms with them.

    Raises ModelError if no tensor fits or the weights cannot be fetched. `architecture` is used in messages only.
    """
    source = _build_starting_network(starting_model)
    source_tensors = source.state_dict()
    own_tensors = network.state_dict()
    loaded: dict[str, Tensor] = {}
    for name, tensor in own_tensors.items():
        source_name = _find_same_tensor(name, tensor, source_tensors)
        if source_name is not None and not name.endswith(_NOT_A_WEIGHT):
            loaded[name] = source_tensors[source_name]
    if not loaded:
        raise ModelError(
            f"no tensor of {_describe(starting_model)} fits {architecture}: none has the same name and shape. "
            "Choose another network.start"
        )
    architectures.fill_network(network, own_tensors | loaded)
    return LoadedWeights(
        loaded_tensors=tuple(sorted(loaded)),
        new_tensors=tuple(sorted(n for n in own_tensors if n not in loaded and not n.endswith(_NOT_A_WEIGHT))),
        batch_norm_eps=_copy_batch_norm_eps(source, network),
    )


def _build_starting_network(spec: TorchvisionSpec | CheckpointSpec) -> nn.Module:
    if isinstance(spec, CheckpointSpec):
        return checkpoint_model.load_checkpoint_network(spec)
    if spec.weights.upper() == "DEFAULT" and spec.builder == SMALL_FASTER_RCNN:
        raise ModelError(
            f"{spec.builder} has no published weights; set network.start to none or to the folder of a checkpoint"
        )
    return pretrained.build_pretrained_network(spec)


def _find_same_tensor(name: str, tensor: Tensor, source_tensors: Mapping[str, Tensor]) -> str | None:
    """Find the name of a tensor in the source: the same name, or the one in a classifier that became a backbone."""
    inner = name.removeprefix("backbone.").removeprefix("body.")
    for candidate in dict.fromkeys((name, inner, f"features.{inner}")):
        if candidate in source_tensors and source_tensors[candidate].shape == tensor.shape:
            return candidate
    return None


def _copy_batch_norm_eps(source: nn.Module, network: nn.Module) -> float | None:
    """Give the network's batch norms the eps of the source's; return it, or None if nothing had to change.

    The published Faster R-CNN COCO_V1 runs with eps 0. Statistics from it must be read with the same eps.
    """
    source_eps = {module.eps for module in source.modules() if isinstance(module, _BATCH_NORMS)}
    own_eps = {module.eps for module in network.modules() if isinstance(module, _BATCH_NORMS)}
    if len(source_eps) != 1 or source_eps == own_eps:
        return None
    eps = float(source_eps.pop())
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS):
            module.eps = eps
    return eps


def _describe(spec: TorchvisionSpec | CheckpointSpec) -> str:
    return spec.uri if isinstance(spec, CheckpointSpec) else f"{spec.builder}@{spec.weights}"

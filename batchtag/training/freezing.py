"""Freezing: parts of a network that keep their weights and batch norm statistics during training.

The stages of a backbone are found by the names that torchvision gives the parts of its networks; a test builds every
torchvision builder and checks that stages are found.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_NOT_BACKBONE = frozenset(
    ["fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2", "dropout", "avgpool", "fpn", "extra", "norm"]
)
"""Torchvision's names for parts of a network that do not belong to the backbone."""
_STAGE_LISTS = ("blocks", "trunk_output")
"""The names of the list of stages in MaxViT and RegNet."""


def freeze_layers(network: nn.Module, *, num_stages: int, batch_norms: bool) -> None:
    """Exclude from training the first `num_stages` of the backbone, counted from the input.

    `batch_norms` excludes the scales and biases of every batch norm too.
    """
    for module in _frozen_modules(network, num_stages=num_stages, batch_norms=batch_norms):
        module.requires_grad_(False)


def set_training_mode(network: nn.Module, *, num_stages: int, batch_norms: bool) -> None:
    """Call `network.train()`, but leave frozen parts in evaluation mode, so that their statistics stay too."""
    network.train()
    for module in _frozen_modules(network, num_stages=num_stages, batch_norms=batch_norms):
        module.eval()


def _frozen_modules(network: nn.Module, *, num_stages: int, batch_norms: bool) -> list[nn.Module]:
    frozen = backbone_stages(network)[:num_stages]
    if batch_norms:
        frozen += [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return frozen


def backbone_stages(network: nn.Module) -> list[nn.Module]:
    """Return the stages of a backbone from input to output: the stem first, then one module for each stage or block.

    Bare layers (VGG, AlexNet and every stem consist of them) form one stage up to and including the next pooling.
    """
    stages: list[list[nn.Module]] = []
    is_open = False
    for part in _backbone_parts(network):
        is_layer = next(part.children(), None) is None
        has_weights = next(part.parameters(), None) is not None
        if stages and is_layer and (is_open or not has_weights):
            stages[-1].append(part)
        else:
            stages.append([part])
        is_open = is_layer and "Pool" not in type(part).__name__
    return [stage[0] if len(stage) == 1 else nn.ModuleList(stage) for stage in stages]


def _backbone_parts(network: nn.Module) -> list[nn.Module]:
    trunk: Any = getattr(network, "backbone", network)
    trunk = getattr(trunk, "body", trunk)
    if isinstance(getattr(trunk, "features", None), nn.Sequential):
        return list(trunk.features.children())
    parts: list[nn.Module] = []
    for name, module in trunk.named_children():
        if name == "encoder":  # of a vision transformer
            parts += module.layers.children()
        elif name in _STAGE_LISTS or (name == "layers" and isinstance(module, nn.Sequential)):
            parts += module.children()
        elif name not in _NOT_BACKBONE:
            parts.append(module)
    return parts

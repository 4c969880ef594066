"""Batch norms folded into convolutions: where they belong together and nowhere else, and without touching weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as published
from torchvision.ops import FrozenBatchNorm2d

from batchtag.models.acceleration.bn_folding import TOLERANCE, difference, fold_batch_norms
from batchtag.models.acceleration.submodules import replace_parts
from batchtag.models.torchvision.architectures import build, untrained_arguments

EXAMPLE = torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def lived(network: nn.Module) -> nn.Module:
    """With norms that have seen something: fresh ones change hardly anything, folded rightly or wrongly."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms_of(network):
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.3, 2, generator=generator)
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def norms_of(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]


def answer(network: nn.Module, inputs: Any) -> Any:
    with torch.inference_mode():
        return network(inputs)


@pytest.mark.parametrize(
    ("builder", "left"), [("resnet18", 0), ("mobilenet_v3_small", 0), ("regnet_y_400mf", 0), ("densenet121", 62)]
)
def test_a_classifier_says_the_same_with_its_batch_norms_folded(builder: str, left: int) -> None:
    """DenseNet norms what it has gathered, before convolutions: half of its norms follow none."""
    network = lived(build(builder, untrained_arguments(builder, task="classify")))
    expected = answer(network, EXAMPLE)
    assert fold_batch_norms(network, torch.rand(1, 3, 64, 64)) is network
    assert len(norms_of(network)) == left
    assert difference(expected, answer(network, EXAMPLE)) < 1e-5


@pytest.mark.parametrize(
    "builder", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
)
def test_the_norms_of_a_detector_s_parts_are_folded_the_frozen_ones_too(builder: str) -> None:
    frozen = {"norm_layer": FrozenBatchNorm2d} if "resnet" in builder else {}
    network: Any = build(builder, untrained_arguments(builder, task="detect"))
    if frozen:
        network.backbone = published.detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, **frozen
        )
    lived(network)
    assert norms_of(network)
    side = 320 if builder.startswith("ssd") else 96
    image = torch.linspace(0, 1, 3 * side * side).reshape(1, 3, side, side)
    expected = answer(network.backbone, image)
    replace_parts(network, fold_batch_norms)
    assert norms_of(network) == []
    assert difference(expected, answer(network.backbone, image)) < 1e-5


def tensor(given: Any) -> Tensor:
    assert isinstance(given, Tensor)
    return given


class UsedTwice(nn.Module):
    """Adds what the convolution gives to what its norm makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x)
        return y + tensor(self.norm(y))


class CalledTwice(UsedTwice):
    """The convolution is called for something else as well."""

    def forward(self, x: Tensor) -> Tensor:
        return tensor(self.norm(self.convolution(x))) + tensor(self.convolution(x * 0.5))


class TwoNorms(UsedTwice):
    """Two norms after one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return tensor(self.norm(y)) + tensor(self.other(y)).relu()


class WithoutMemory(UsedTwice):
    """The norm goes by the batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return tensor(self.norm(self.convolution(x)))


def weight_normed() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    network[0] = nn.utils.parametrizations.weight_norm(network[0])
    return network


@pytest.mark.parametrize("make", [UsedTwice, CalledTwice, TwoNorms, weight_normed])
def test_a_norm_that_is_not_its_convolution_s_alone_stays(make: Callable[[], nn.Module]) -> None:
    network = lived(make())
    expected, modules = answer(network, EXAMPLE), [type(module) for module in network.modules()]
    fold_batch_norms(network, EXAMPLE)
    assert [type(module) for module in network.modules()] == modules
    assert torch.equal(answer(network, EXAMPLE), expected)


def test_a_norm_that_goes_by_what_it_sees_stays() -> None:
    network = WithoutMemory().eval()
    fold_batch_norms(network, EXAMPLE)
    assert len(norms_of(network)) == 1


def test_a_pair_that_is_called_for_every_level_of_a_pyramid_is_folded() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))

        def forward(self, levels: list[Tensor]) -> list[Tensor]:
            return [self.shared(level) for level in levels]

    network = lived(Levels())
    levels = [EXAMPLE, EXAMPLE[:, :, ::2, ::2]]
    expected = answer(network, levels)
    fold_batch_norms(network, levels)
    assert norms_of(network) == []
    assert difference(expected, answer(network, levels)) < 1e-5


def test_weights_that_somebody_else_holds_are_not_changed() -> None:
    network = lived(build("resnet18", untrained_arguments("resnet18", task="classify")))
    held = network.state_dict()
    before = copy.deepcopy(held)
    fold_batch_norms(network, EXAMPLE)
    assert all(torch.equal(before[name], held[name]) for name in before)


def test_a_fold_is_believed_only_if_every_example_agrees() -> None:
    fine, none = torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)
    for examples in ((fine, none), (none, fine)):
        part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        fold_batch_norms(part, *examples)
        assert isinstance(part[1], nn.BatchNorm2d)


def test_answers_that_are_no_numbers_agree_with_nothing() -> None:
    assert not difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan])) <= TOLERANCE
    assert difference(torch.zeros(0, 4), torch.zeros(0, 4)) == 0.0

"""Batch norms are folded into the convolutions that they belong to, and nowhere else; old weights do not change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

from batchtag.models.acceleration.bn_folding import TOLERANCE, fold_batch_norms, relative_difference
from batchtag.models.acceleration.submodules import replace_parts
from batchtag.models.torchvision.architectures import build_network, untrained_arguments

EXAMPLE = torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def fill_batch_norms(network: nn.Module) -> nn.Module:
    """Give the batch norms random statistics: fresh ones change almost nothing, folded correctly or not."""
    generator = torch.Generator().manual_seed(0)
    for norm in find_batch_norms(network):
        norm.running_mean.normal_(0, 0.3, generator=generator)
        norm.running_var.uniform_(0.3, 2, generator=generator)
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


def find_batch_norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]


def run(network: nn.Module, inputs: Any) -> Any:
    with torch.inference_mode():
        return network(inputs)


@pytest.mark.parametrize(
    ("builder", "num_remaining"),
    [
        ("resnet18", 0),
        ("densenet121", 62),
        pytest.param("mobilenet_v3_small", 0, marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", 0, marks=pytest.mark.slow),
    ],
)
def test_a_classifier_gives_the_same_logits_with_its_batch_norms_folded(builder: str, num_remaining: int) -> None:
    """DenseNet normalizes before its convolutions, so half of its batch norms follow no convolution."""
    network = fill_batch_norms(build_network(builder, untrained_arguments(builder, task="classify")))
    expected = run(network, EXAMPLE)
    assert fold_batch_norms(network, torch.rand(1, 3, 64, 64)) is network
    assert len(find_batch_norms(network)) == num_remaining
    assert relative_difference(expected, run(network, EXAMPLE)) < 1e-5


@pytest.mark.parametrize(
    "builder",
    [
        "fasterrcnn_resnet50_fpn",
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow),
        pytest.param("ssdlite320_mobilenet_v3_large", marks=pytest.mark.slow),
    ],
)
def test_all_batch_norms_of_a_detector_are_folded_also_frozen_ones(builder: str) -> None:
    network: Any = build_network(builder, untrained_arguments(builder, task="detect"))
    if "resnet" in builder:
        network.backbone = torchvision_models.detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
        )
    fill_batch_norms(network)
    assert find_batch_norms(network)
    side = 320 if builder.startswith("ssd") else 96
    image = torch.linspace(0, 1, 3 * side * side).reshape(1, 3, side, side)
    expected = run(network.backbone, image)
    replace_parts(network, fold_batch_norms)
    assert find_batch_norms(network) == []
    assert relative_difference(expected, run(network.backbone, image)) < 1e-5


def as_tensor(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output


class OutputUsedTwice(nn.Module):
    """Adds the output of the convolution to that of its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x)
        return y + as_tensor(self.norm(y))


class ConvolutionCalledTwice(OutputUsedTwice):
    """Calls the convolution also without the batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return as_tensor(self.norm(self.convolution(x))) + as_tensor(self.convolution(x * 0.5))


class TwoNorms(OutputUsedTwice):
    """Has two batch norms after one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return as_tensor(self.norm(y)) + as_tensor(self.other(y)).relu()


class NormWithoutStatistics(OutputUsedTwice):
    """Has a batch norm that uses the statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return as_tensor(self.norm(self.convolution(x)))


def build_weight_normed() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    network[0] = nn.utils.parametrizations.weight_norm(network[0])
    return network


@pytest.mark.parametrize("make", [OutputUsedTwice, ConvolutionCalledTwice, TwoNorms, build_weight_normed])
def test_a_batch_norm_that_does_not_belong_to_one_convolution_alone_is_not_folded(
    make: Callable[[], nn.Module],
) -> None:
    network = fill_batch_norms(make())
    expected, modules = run(network, EXAMPLE), [type(module) for module in network.modules()]
    fold_batch_norms(network, EXAMPLE)
    assert [type(module) for module in network.modules()] == modules
    assert torch.equal(run(network, EXAMPLE), expected)


def test_a_batch_norm_without_learned_statistics_is_not_folded() -> None:
    network = NormWithoutStatistics().eval()
    fold_batch_norms(network, EXAMPLE)
    assert len(find_batch_norms(network)) == 1


def test_a_batch_norm_without_learned_weights_is_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8, affine=False)).eval()
    network[1].running_var.fill_(0.25)  # type: ignore[operator]
    expected = run(network, EXAMPLE)
    fold_batch_norms(network, EXAMPLE)
    assert find_batch_norms(network) == []
    assert relative_difference(expected, run(network, EXAMPLE)) < 1e-5


def test_a_pair_that_is_called_for_every_level_of_a_pyramid_is_folded() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))

        def forward(self, levels: list[Tensor]) -> list[Tensor]:
            return [self.shared(level) for level in levels]

    network = fill_batch_norms(Levels())
    levels = [EXAMPLE, EXAMPLE[:, :, ::2, ::2]]
    expected = run(network, levels)
    fold_batch_norms(network, levels)
    assert find_batch_norms(network) == []
    assert relative_difference(expected, run(network, levels)) < 1e-5


def test_a_state_dict_that_was_taken_before_folding_does_not_change() -> None:
    network = fill_batch_norms(build_network("resnet18", untrained_arguments("resnet18", task="classify")))
    state_dict = network.state_dict()
    before = copy.deepcopy(state_dict)
    fold_batch_norms(network, EXAMPLE)
    assert all(torch.equal(before[name], state_dict[name]) for name in before)


def test_batch_norms_are_folded_only_if_the_outputs_of_all_examples_agree() -> None:
    numbers, not_numbers = torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)
    for examples in ((numbers, not_numbers), (not_numbers, numbers)):
        part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        fold_batch_norms(part, *examples)
        assert isinstance(part[1], nn.BatchNorm2d)


def test_outputs_with_nan_agree_with_nothing() -> None:
    not_numbers = torch.tensor([1.0, torch.nan])
    assert not relative_difference(not_numbers, not_numbers) <= TOLERANCE
    assert relative_difference(torch.zeros(0, 4), torch.zeros(0, 4)) == 0.0

"""Winograd's algorithm gives the results of the convolutions that it replaces, and replaces only those that gain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from batchtag.models.acceleration.bn_folding import relative_difference
from batchtag.models.acceleration.openvino import trace_model
from batchtag.models.acceleration.openvino_core import shared_core
from batchtag.models.acceleration.winograd import use_winograd

USUAL_SHAPE = (1, 128, 24, 32)
UNLIMITED = 2**40
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def _seeded_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the seed, and let every machine decide as one with AVX2 does."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def slow(values: Iterable[Any]) -> list[Any]:
    """Mark the cases of one parameter as slow."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def make_graph(part: nn.Module, *, sides: list[int]) -> Any:
    """Return the part as OpenVINO reads it, before it is compiled; `sides` has -1 for a side that may vary."""
    model = trace_model(part.eval(), torch.rand(*[side if side > 0 else 16 for side in sides]))
    model.reshape(sides)
    return model


def run_graph(model: Any, pixels: Tensor) -> Tensor:
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(next(iter(compiled([pixels.numpy()]).values())).copy())


def make_convolution(channels: int = 128, *, out: int = 128, **options: Any) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, out, options.pop("kernel_size", 3), **{"padding": 1, **options})
    return convolution.requires_grad_(False)


def assert_same_output(part: nn.Module, model: Any, pixels: Tensor) -> None:
    with torch.inference_mode():
        assert relative_difference(part(pixels), run_graph(model, pixels)) < TOLERANCE


@pytest.mark.parametrize(
    "size",
    [(1, 1), (5, 4), (24, 32), *slow([(1, 9), (2, 3), (4, 4), (7, 7), (13, 17), (50, 31), (1, 400)])],
)
def test_one_image_of_any_size_is_convolved_correctly(size: tuple[int, int]) -> None:
    part = make_convolution(out=144)
    model = make_graph(part, sides=[1, 128, -1, -1])
    assert use_winograd(model, [USUAL_SHAPE], max_bytes=UNLIMITED) == 1
    assert_same_output(part, model, torch.randn(1, 128, *size))


FAST_BATCHES = [(1, (7, 7)), (2, (28, 28)), (5, (6, 13))]
SLOW_BATCHES = [
    (num_images, size)
    for num_images in (1, 2, 5)
    for size in ((1, 1), (7, 7), (8, 8), (6, 13), (28, 28))
    if (num_images, size) not in FAST_BATCHES
]


@pytest.mark.parametrize("batch", [*FAST_BATCHES, *slow(SLOW_BATCHES)], ids=str)
def test_a_batch_of_known_size_is_convolved_correctly(batch: tuple[int, tuple[int, int]]) -> None:
    num_images, size = batch
    part = make_convolution(64, out=80)
    model = make_graph(part, sides=[num_images, 64, *size])
    assert use_winograd(model, [(16, 64, *size)], max_bytes=UNLIMITED) == 1
    assert_same_output(part, model, torch.randn(num_images, 64, *size))


class FollowedConvolution(nn.Module):
    """A convolution and the operations on its output."""

    def __init__(self, follow: Callable[[Tensor], Tensor], *, bias: bool) -> None:
        super().__init__()
        self.convolution = make_convolution(64, out=64, bias=bias)
        self._follow = follow

    def forward(self, pixels: Tensor) -> Tensor:
        return self._follow(self.convolution(pixels))


FOLLOWED_BY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "silu": functional.silu,
    "sum with a number": lambda output: functional.relu(output + 2),
    "sum with a bias": lambda output: functional.relu(output + torch.linspace(-1, 1, 64)[:, None, None]),
    "sum by column": lambda output: functional.relu(output + torch.linspace(-1, 1, 16)),
    "sum with itself": lambda output: functional.relu(output + output.flip(1)),
    "used twice": lambda output: functional.relu(output) + output,
    "two relus": lambda output: functional.relu(functional.relu(output) - 0.1),
}
FAST_FOLLOWERS = [("relu", True), ("sum with a bias", False), ("sum by column", True), ("used twice", True)]
SLOW_FOLLOWERS = [(name, bias) for name in FOLLOWED_BY for bias in (True, False) if (name, bias) not in FAST_FOLLOWERS]


@pytest.mark.parametrize("follower", [*FAST_FOLLOWERS, *slow(SLOW_FOLLOWERS)], ids=str)
def test_the_operations_after_a_convolution_get_the_same_values(follower: tuple[str, bool]) -> None:
    name, bias = follower
    part = FollowedConvolution(FOLLOWED_BY[name], bias=bias)
    model = make_graph(part, sides=[2, 64, 16, 16])
    assert use_winograd(model, [(2, 64, 16, 16)], max_bytes=UNLIMITED) == 1
    assert_same_output(part, model, torch.randn(2, 64, 16, 16))


def test_images_of_one_batch_do_not_influence_one_another() -> None:
    model = make_graph(make_convolution(), sides=[3, 128, 7, 7])
    use_winograd(model, [(16, 128, 7, 7)], max_bytes=UNLIMITED)
    image = torch.randn(1, 128, 7, 7)
    zeros, infinities = torch.zeros(1, 128, 7, 7), torch.full((1, 128, 7, 7), torch.inf)
    outputs = [run_graph(model, torch.cat([other, image, other]))[1] for other in (zeros, infinities)]
    assert torch.equal(*outputs)


UNSUITED = {
    "stride": {"stride": 2},
    "groups": {"groups": 2},
    "few input channels": {"channels": 127},
    "dilation": {"dilation": 2, "padding": 2},
    "no padding": {"padding": 0},
    "1 x 1": {"kernel_size": 1, "padding": 0},
    "5 x 5": {"kernel_size": 5, "padding": 2},
    "few output channels": {"out": 127},
}
"""Arguments of convolutions that are not replaced; the first three are tested in the fast tier."""


@pytest.mark.parametrize("name", [*list(UNSUITED)[:3], *slow(list(UNSUITED)[3:])])
def test_a_convolution_of_another_kind_or_without_gain_is_not_replaced(name: str) -> None:
    part = make_convolution(**UNSUITED[name])
    model = make_graph(part, sides=[1, part.in_channels, -1, -1])
    assert use_winograd(model, [(1, part.in_channels, 24, 32)], max_bytes=UNLIMITED) == 0


def test_the_large_levels_of_a_pyramid_are_replaced_and_share_weights_and_the_small_ones_stay() -> None:
    shared = make_convolution()

    class Head(nn.Module):
        def forward(self, level: Tensor) -> Tensor:
            output: Tensor = shared(level)
            for _ in range(3):
                level = functional.max_pool2d(level, 2)
                output = output + shared(level).mean()
            return output

    model = make_graph(Head(), sides=[1, 128, -1, -1])
    num_replaced = use_winograd(model, [(1, 128, 32, 32)], max_bytes=UNLIMITED)
    assert num_replaced == 2, "those with 64 and 16 patches, not those with 4 and 1"
    weights = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert len([node for node in weights if list(node.shape) == [36, 128, 128]]) == 1


@pytest.mark.parametrize("sides", [[-1, 128, -1, -1], *slow([[-1, 128, 24, 32], [2, 128, -1, -1]])])
def test_an_unknown_number_of_images_or_several_of_unknown_size_are_not_replaced(sides: list[int]) -> None:
    model = make_graph(make_convolution(), sides=sides)
    assert use_winograd(model, [(4, 128, 24, 32)], max_bytes=UNLIMITED) == 0


@pytest.mark.parametrize(
    ("channels", "num_images", "gains"),
    [
        (64, 16, 1),
        (64, 15, 0),
        pytest.param(64, 1, 1, marks=pytest.mark.slow),
        pytest.param(63, 1, 0, marks=pytest.mark.slow),
    ],
)
def test_a_convolution_of_known_size_gains_from_64_channels_and_16_patches(
    channels: int, num_images: int, gains: int
) -> None:
    size = [16, 16] if num_images == 1 else [4, 4]
    model = make_graph(make_convolution(channels, out=64), sides=[num_images, channels, *size])
    assert use_winograd(model, [(num_images, channels, *size)], max_bytes=UNLIMITED) == gains


@pytest.mark.parametrize(
    ("channels", "size", "gains"),
    [
        (256, (61, 61), 1),
        pytest.param(256, (60, 60), 0, marks=pytest.mark.slow),
        pytest.param(128, (64, 64), 0, marks=pytest.mark.slow),
    ],
)
def test_with_avx_512_only_large_convolutions_gain(
    channels: int, size: tuple[int, int], gains: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    model = make_graph(make_convolution(channels, out=channels), sides=[1, channels, -1, -1])
    assert use_winograd(model, [(1, channels, *size)], max_bytes=UNLIMITED) == gains


def test_a_convolution_that_would_exceed_its_memory_limit_is_not_replaced() -> None:
    """48 patches of 128 channels have 36 numbers each, before and after a product."""
    num_bytes = 2 * 36 * 48 * 128 * 4
    for max_bytes, num_replaced in ((num_bytes, 1), (num_bytes - 1, 0)):
        model = make_graph(make_convolution(), sides=[1, 128, -1, -1])
        assert use_winograd(model, [USUAL_SHAPE], max_bytes=max_bytes) == num_replaced

"""Convolutions by Winograd's way are the convolutions they stand for, and stand only where they gain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from batchtag.models.acceleration.bn_folding import difference
from batchtag.models.acceleration.openvino import graph_of
from batchtag.models.acceleration.openvino_core import the_core
from batchtag.models.acceleration.winograd import use_winograd

USUAL = (1, 128, 24, 32)
MUCH = 2**40


@pytest.fixture(autouse=True)
def on_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded, and on any machine as on one with AVX2."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def graph(part: nn.Module, *, sides: list[int]) -> Any:
    """The part as OpenVINO reads it, before it is compiled; `sides` has -1 for what may vary."""
    model = graph_of(part.eval(), torch.rand(*[side if side > 0 else 16 for side in sides]))
    model.reshape(sides)
    return model


def answer(model: Any, given: Tensor) -> Tensor:
    compiled = the_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(next(iter(compiled([given.numpy()]).values())).copy())


def convolution(channels: int = 128, *, out: int = 128, **options: Any) -> nn.Conv2d:
    made = nn.Conv2d(channels, out, options.pop("kernel_size", 3), **{"padding": 1, **options})
    return made.requires_grad_(False)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 4), (7, 7), (13, 17), (24, 32), (50, 31), (1, 400)]
)
def test_one_image_of_any_size_is_convolved_the_same(size: tuple[int, int]) -> None:
    part = convolution(out=144)
    model = graph(part, sides=[1, 128, -1, -1])
    assert use_winograd(model, [USUAL], max_bytes=MUCH) == 1
    given = torch.randn(1, 128, *size)
    with torch.inference_mode():
        assert difference(part(given), answer(model, given)) < 2e-5


@pytest.mark.parametrize("num_images", [1, 2, 5])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (8, 8), (6, 13), (28, 28)])
def test_images_of_known_number_and_size_are_convolved_the_same(num_images: int, size: tuple[int, int]) -> None:
    part = convolution(64, out=80)
    model = graph(part, sides=[num_images, 64, *size])
    assert use_winograd(model, [(16, 64, *size)], max_bytes=MUCH) == 1
    given = torch.randn(num_images, 64, *size)
    with torch.inference_mode():
        assert difference(part(given), answer(model, given)) < 2e-5


class Followed(nn.Module):
    """A convolution and what makes use of it."""

    def __init__(self, use: Callable[[Tensor], Tensor], *, bias: bool) -> None:
        super().__init__()
        self.convolution = convolution(64, out=64, bias=bias)
        self._use = use

    def forward(self, pixels: Tensor) -> Tensor:
        return self._use(self.convolution(pixels))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "use",
    [
        functional.relu,
        functional.silu,
        lambda found: functional.relu(found + 2),
        lambda found: functional.relu(found + torch.linspace(-1, 1, 64)[:, None, None]),
        lambda found: functional.relu(found + torch.linspace(-1, 1, 16)),
        lambda found: functional.relu(found + found.flip(1)),
        lambda found: functional.relu(found) + found,
        lambda found: functional.relu(functional.relu(found) - 0.1),
    ],
    ids=["relu", "silu", "number", "bias", "by column", "of itself", "kept beside", "twice"],
)
def test_whatever_follows_a_convolution_gets_the_same(use: Callable[[Tensor], Tensor], bias: bool) -> None:
    part = Followed(use, bias=bias)
    model = graph(part, sides=[2, 64, 16, 16])
    assert use_winograd(model, [(2, 64, 16, 16)], max_bytes=MUCH) == 1
    given = torch.randn(2, 64, 16, 16)
    with torch.inference_mode():
        assert difference(part(given), answer(model, given)) < 2e-5


def test_images_of_one_batch_do_not_show_in_one_another() -> None:
    model = graph(convolution(), sides=[3, 128, 7, 7])
    use_winograd(model, [(16, 128, 7, 7)], max_bytes=MUCH)
    one = torch.randn(1, 128, 7, 7)
    loud, quiet = torch.full((1, 128, 7, 7), torch.inf), torch.zeros(1, 128, 7, 7)
    alone, among = (answer(model, torch.cat([other, one, other]))[1] for other in (quiet, loud))
    assert torch.equal(alone, among)


@pytest.mark.parametrize(
    "part",
    [
        convolution(stride=2),
        convolution(dilation=2, padding=2),
        convolution(padding=0),
        convolution(kernel_size=1, padding=0),
        convolution(kernel_size=5, padding=2),
        convolution(groups=2),
        convolution(127),
        convolution(out=127),
    ],
    ids=["stride", "dilation", "no padding", "1 x 1", "5 x 5", "groups", "few channels in", "few channels out"],
)
def test_what_is_of_another_kind_or_gains_nothing_stays(part: nn.Conv2d) -> None:
    model = graph(part, sides=[1, part.in_channels, -1, -1])
    assert use_winograd(model, [(1, part.in_channels, 24, 32)], max_bytes=MUCH) == 0


def test_of_a_pyramid_s_levels_the_small_ones_stay_and_the_others_share_weights() -> None:
    shared = convolution()

    class Head(nn.Module):
        def forward(self, level: Tensor) -> Tensor:
            found: Tensor = shared(level)
            for _ in range(3):
                level = functional.max_pool2d(level, 2)
                found = found + shared(level).mean()
            return found

    model = graph(Head(), sides=[1, 128, -1, -1])
    assert use_winograd(model, [(1, 128, 32, 32)], max_bytes=MUCH) == 2, "64 and 16 patches; not 4 and 1"
    turned = [op for op in model.get_ops() if op.get_type_name() == "Constant" and list(op.shape) == [36, 128, 128]]
    assert len(turned) == 1


@pytest.mark.parametrize("sides", [[-1, 128, -1, -1], [-1, 128, 24, 32], [2, 128, -1, -1]])
def test_an_unknown_number_of_images_and_several_of_unknown_size_stay(sides: list[int]) -> None:
    model = graph(convolution(), sides=sides)
    assert use_winograd(model, [(4, 128, 24, 32)], max_bytes=MUCH) == 0


@pytest.mark.parametrize(("channels", "num_images", "gains"), [(64, 1, 1), (63, 1, 0), (64, 16, 1), (64, 15, 0)])
def test_where_all_sides_are_known_64_channels_gain_and_16_patches(channels: int, num_images: int, gains: int) -> None:
    size = [16, 16] if num_images == 1 else [4, 4]
    model = graph(convolution(channels, out=64), sides=[num_images, channels, *size])
    assert use_winograd(model, [(num_images, channels, *size)], max_bytes=MUCH) == gains


@pytest.mark.parametrize(("channels", "size", "gains"), [(128, (64, 64), 0), (256, (60, 60), 0), (256, (61, 61), 1)])
def test_with_avx_512_only_large_ones_are_taken_to_gain(
    channels: int, size: tuple[int, int], gains: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    model = graph(convolution(channels, out=channels), sides=[1, channels, -1, -1])
    assert use_winograd(model, [(1, channels, *size)], max_bytes=MUCH) == gains


def test_what_would_take_more_memory_than_there_is_for_it_stays() -> None:
    """48 patches of 128 channels: 36 numbers each, before and after a product."""
    needed = 2 * 36 * 48 * 128 * 4
    for max_bytes, replaced in ((needed, 1), (needed - 1, 0)):
        model = graph(convolution(), sides=[1, 128, -1, -1])
        assert use_winograd(model, [USUAL], max_bytes=max_bytes) == replaced

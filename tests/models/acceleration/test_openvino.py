"""Parts that OpenVINO computes: in pieces where a batch is large, and without side effects on the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from batchtag.models.acceleration import winograd
from batchtag.models.acceleration.bn_folding import relative_difference
from batchtag.models.acceleration.openvino import CompiledPart, compile_detector, compile_part
from batchtag.models.acceleration.openvino_core import shared_core


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_batches_are_computed_in_pieces_of_the_batch_size_and_the_last_piece_is_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 49, 5)).eval()
    part.requires_grad_(False)
    examples = torch.randn(4, 128, 7, 7), torch.randn(7, 128, 7, 7)
    compiled = CompiledPart(part, examples, usual_shapes=[(8, 128, 7, 7)], threads=1, batch_size=8)
    piece_sizes: list[int] = []
    infer = compiled._infer

    def count_and_infer(leaves: Sequence[Tensor]) -> Any:
        piece_sizes.append(len(leaves[0]))
        return infer(leaves)

    monkeypatch.setattr(compiled, "_infer", count_and_infer)
    for num_boxes, pieces in ((0, [8]), (1, [8]), (8, [8]), (19, [8, 8, 8])):
        boxes = torch.randn(num_boxes, 128, 7, 7)
        piece_sizes.clear()
        with torch.inference_mode():
            expected, output = part(boxes), compiled(boxes)
        assert output.shape == expected.shape
        assert relative_difference(expected, output) < 1e-4
        assert piece_sizes == pieces


def test_no_thread_waits_for_another_to_get_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO creates no request while another thread computes, so all are created when a part is compiled."""
    part = nn.Conv2d(3, 4, 3).eval().requires_grad_(False)
    shapes = [(1, 3, 8, 8), (1, 3, 9, 9)]
    compiled: Any = compile_part(part, torch.rand(shapes[0]), torch.rand(shapes[1]), usual_shapes=shapes[:1], threads=2)
    monkeypatch.setattr(compiled, "_compiled", None)
    both_are_ready = threading.Barrier(2)

    def call(pixels: Tensor) -> Tensor:
        both_are_ready.wait(timeout=60)
        output: Tensor = compiled(pixels)
        return output

    inputs = [torch.rand(shape) for shape in shapes]
    with ThreadPoolExecutor(2) as pool:
        for pixels, output in zip(inputs, pool.map(call, inputs), strict=True):
            torch.testing.assert_close(output, part(pixels))


def test_several_inputs_and_outputs_are_split_into_the_same_pieces() -> None:
    class TwoOutputs(nn.Module):
        def forward(self, inputs: list[Tensor]) -> dict[str, Tensor]:
            return {"sum": inputs[0] + inputs[1].mean(dim=3, keepdim=True), "second": inputs[1] * 2}

    examples = [[torch.rand(count, 3, 4, 1), torch.rand(count, 3, 4, 5)] for count in (1, 2)]
    part = TwoOutputs().eval()
    compiled = CompiledPart(part, examples, usual_shapes=[(2, 3, 4, 1), (2, 3, 4, 5)], threads=1, batch_size=2)
    inputs = [torch.rand(5, 3, 4, 1), torch.rand(5, 3, 4, 5)]
    torch.testing.assert_close(compiled(inputs), part(inputs))


@pytest.mark.parametrize(
    "sizes",
    [
        {"min_size": 32, "max_size": 64},
        pytest.param({"fixed_size": [300, 300]}, marks=pytest.mark.slow),
        pytest.param({"min_size": 320}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_part_of_a_detector_is_compiled_for_every_kind_of_input_size(sizes: dict[str, Any]) -> None:
    network: Any = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, **sizes).eval()
    images = [torch.rand(3, 120, 90), torch.rand(3, 33, 200)]
    with torch.inference_mode():
        expected = [network([image])[0]["boxes"] for image in images]
        compile_detector(network, threads=2)
        parts = (network.backbone, network.rpn.head, network.roi_heads.box_predictor)
        assert [type(part) for part in parts] == [CompiledPart] * 3
        for boxes, image in zip(expected, images, strict=True):
            torch.testing.assert_close(network([image])[0]["boxes"], boxes, atol=0.05, rtol=0)


def test_a_part_on_which_winograd_fails_is_compiled_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(winograd, "use_winograd", fail)
    part = nn.Conv2d(3, 4, 3).eval()
    compiled = compile_part(
        part, torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9), usual_shapes=[(1, 3, 8, 8)], threads=1
    )
    assert isinstance(compiled, CompiledPart)


def test_all_threads_get_the_same_core() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(core) for core in pool.map(lambda _: shared_core(), range(8))}) == 1


_SIGNAL_AFTER_INFERENCE = """
import gc, os, signal, torch
from batchtag.models.acceleration.openvino import CompiledPart

examples = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9)
convolutions = [torch.nn.Conv2d(3, 4, 3).eval() for _ in range(2)]
parts = [CompiledPart(part, examples, usual_shapes=[(1, 3, 8, 8)], threads=1) for part in convolutions]
while parts:
    parts.pop(0)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("received"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
def test_a_process_that_used_openvino_still_receives_signals() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _SIGNAL_AFTER_INFERENCE]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "received\n")

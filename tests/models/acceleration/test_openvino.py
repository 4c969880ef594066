"""Parts that OpenVINO computes: in pieces where a batch is large, and without leaving a trap in the process."""

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
from batchtag.models.acceleration.bn_folding import difference
from batchtag.models.acceleration.openvino import Compiled, compile_detector, compile_part
from batchtag.models.acceleration.openvino_core import the_core


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_as_many_as_asked_for_are_computed_at_a_time_and_fewer_are_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    part = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 49, 5)).eval()
    part.requires_grad_(False)
    examples = torch.randn(4, 128, 7, 7), torch.randn(7, 128, 7, 7)
    compiled = Compiled(part, examples, usual=[(8, 128, 7, 7)], threads=1, batch=8)
    computed: list[int] = []
    answers = compiled._answers

    def counted(leaves: Sequence[Tensor]) -> Any:
        computed.append(len(leaves[0]))
        return answers(leaves)

    monkeypatch.setattr(compiled, "_answers", counted)
    for num_boxes in (0, 1, 8, 19):
        given = torch.randn(num_boxes, 128, 7, 7)
        with torch.inference_mode():
            expected = part(given)
            assert compiled(given).shape == expected.shape
            assert difference(expected, compiled(given)) < 1e-4
    assert computed == 2 * [8] + 2 * [8] + 2 * [8] + 2 * [8, 8, 8]


def test_no_caller_waits_for_another_to_get_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO makes none while another caller computes; so what is needed is there from the start."""
    part = nn.Conv2d(3, 4, 3).eval().requires_grad_(False)
    shapes = [(1, 3, 8, 8), (1, 3, 9, 9)]
    compiled: Any = compile_part(part, torch.rand(shapes[0]), torch.rand(shapes[1]), usual=shapes[:1], threads=2)
    monkeypatch.setattr(compiled, "_compiled", None)
    both_compute = threading.Barrier(2)

    def call(given: Tensor) -> Tensor:
        both_compute.wait(timeout=60)
        answer: Tensor = compiled(given)
        return answer

    given = [torch.rand(shape) for shape in shapes]
    with ThreadPoolExecutor(2) as pool:
        for one, answer in zip(given, pool.map(call, given), strict=True):
            torch.testing.assert_close(answer, part(one))


def test_of_several_inputs_and_outputs_the_same_images_go_together() -> None:
    class Both(nn.Module):
        def forward(self, inputs: list[Tensor]) -> dict[str, Tensor]:
            return {"sum": inputs[0] + inputs[1].mean(dim=3, keepdim=True), "second": inputs[1] * 2}

    examples = [[torch.rand(count, 3, 4, 1), torch.rand(count, 3, 4, 5)] for count in (1, 2)]
    part = Both().eval()
    compiled = Compiled(part, examples, usual=[(2, 3, 4, 1), (2, 3, 4, 5)], threads=1, batch=2)
    given = [torch.rand(5, 3, 4, 1), torch.rand(5, 3, 4, 5)]
    torch.testing.assert_close(compiled(given), part(given))


@pytest.mark.parametrize("sizes", [{"fixed_size": [300, 300]}, {"min_size": 32, "max_size": 64}, {"min_size": 320}])
def test_every_part_of_a_detector_is_compiled_whatever_size_it_wants(sizes: dict[str, Any]) -> None:
    network: Any = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, **sizes).eval()
    images = [torch.rand(3, 120, 90), torch.rand(3, 33, 200)]
    with torch.inference_mode():
        expected = [network([one])[0]["boxes"] for one in images]
        compile_detector(network, threads=2)
        parts = (network.backbone, network.rpn.head, network.roi_heads.box_predictor)
        assert [type(one) for one in parts] == [Compiled] * 3
        for boxes, image in zip(expected, images, strict=True):
            torch.testing.assert_close(network([image])[0]["boxes"], boxes, atol=0.05, rtol=0)


def test_a_part_that_winograd_cannot_do_is_compiled_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> int:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(winograd, "use_winograd", broken)
    part = nn.Conv2d(3, 4, 3).eval()
    made = compile_part(part, torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9), usual=[(1, 3, 8, 8)], threads=1)
    assert isinstance(made, Compiled)


def test_threads_that_ask_for_the_core_at_once_get_the_same() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(lambda _: the_core(), range(8))}) == 1


_SIGNALLED = """
import gc, os, signal, torch
from batchtag.models.openvino import Compiled

examples = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9)
made = [Compiled(torch.nn.Conv2d(3, 4, 3).eval(), examples, usual=[(1, 3, 8, 8)], threads=1) for _ in range(2)]
while made:
    made.pop(0)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_that_used_openvino_still_hears_signals() -> None:
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", _SIGNALLED], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "heard\n")

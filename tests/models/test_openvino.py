"""Parts that OpenVINO computes: in pieces where a batch is large, and without leaving a trap in the process."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from batchtag.models.folding import difference
from batchtag.models.openvino import Compiled


def test_a_batch_is_computed_in_pieces_that_are_no_larger_than_asked_for() -> None:
    torch.manual_seed(0)
    part = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 49, 5)).eval()
    part.requires_grad_(False)
    examples = torch.randn(4, 128, 7, 7), torch.randn(7, 128, 7, 7)
    compiled = Compiled(part, *examples, usual=[(8, 128, 7, 7)], threads=1, most=8)
    for num_boxes in (0, 1, 8, 9, 30):
        given = torch.randn(num_boxes, 128, 7, 7)
        with torch.inference_mode():
            assert difference(part(given), compiled(given)) < 1e-4


_SIGNALLED = """
import gc, os, signal, torch
from batchtag.models.openvino import Compiled

example, other = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 9, 9)
made = [Compiled(torch.nn.Conv2d(3, 4, 3).eval(), example, other, usual=[(1, 3, 8, 8)], threads=1, most=None)
        for _ in range(2)]
while made:
    made.pop(0)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_process_that_used_openvino_still_hears_signals() -> None:
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", _SIGNALLED], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "heard\n")

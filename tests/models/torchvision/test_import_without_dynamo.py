"""TorchDynamo is not imported by a worker that loads a model, and is complete for code that uses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LOAD = """
import sys
from batchtag.models import Runtime, load
from batchtag.models.acceleration.runtime import choose_engine
from batchtag.config.model import TorchvisionSpec

spec = TorchvisionSpec(builder={builder!r}, weights="none")
load(spec, runtime=Runtime(engine=choose_engine("cpu")))
assert "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules
assert "sympy" not in sys.modules
"""
_USE_DYNAMO = """
import torch, torchvision
from torchvision.ops import roi_align
stand_in = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert "torch._dynamo" not in sys.modules
answers = stand_in("cpu"), stand_in("meta")
from torch._dynamo.utils import is_compile_supported
assert stand_in is not is_compile_supported
assert answers == (is_compile_supported("cpu"), is_compile_supported("meta"))
assert torch.compiler.disable.__module__ == "torch.compiler"
assert torch.compiler.disable(roi_align) is not roi_align
"""


def run_script(script: str) -> None:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_worker_loads_a_model_without_torch_dynamo() -> None:
    run_script(_LOAD.format(builder="squeezenet1_1"))


@pytest.mark.slow
def test_a_worker_loads_a_detector_without_torch_dynamo_which_works_for_code_that_uses_it_later() -> None:
    run_script(_LOAD.format(builder="fasterrcnn_mobilenet_v3_large_320_fpn") + _USE_DYNAMO)

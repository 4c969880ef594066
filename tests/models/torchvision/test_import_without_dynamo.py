from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys
from batchtag.models import Runtime, load
from batchtag.models.runtime import engine_on
from batchtag.models.spec import TorchvisionSpec

spec = TorchvisionSpec(builder="fasterrcnn_mobilenet_v3_large_320_fpn", weights="none")
load(spec, runtime=Runtime(engine=engine_on("cpu")))
assert "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules
assert "sympy" not in sys.modules

import torch, torchvision
from torchvision.ops import roi_align
taken = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert "torch._dynamo" not in sys.modules
said = taken("cpu"), taken("meta")
from torch._dynamo.utils import is_compile_supported
assert taken is not is_compile_supported and said == (is_compile_supported("cpu"), is_compile_supported("meta"))
assert torch.compiler.disable.__module__ == "torch.compiler"
print(torch.compiler.disable(roi_align) is not roi_align)
"""


def test_a_worker_gets_its_model_without_torch_dynamo_which_is_there_for_who_asks() -> None:
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", _SCRIPT], capture_output=True, text=True)
    assert said.stdout.strip() == "True", said.stderr

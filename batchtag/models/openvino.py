"""Parts of a network compiled by OpenVINO: its convolutions with their batch norms folded and activations fused.

Optional (`pip install 'batchtag[openvino]'`): Intel's own and well kept library, quick on AMD's processors too.
What decides what a box is (proposals, suppression, thresholds) stays torchvision's; only parts that are arithmetic from
one end to the other are replaced, each by something that is called like it. A part that cannot be compiled, or whose
answers on another picture differ from its own, stays as it is.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from batchtag.models.folding import TOLERANCE, difference
from batchtag.models.parts import replace_parts

log = logging.getLogger(__name__)
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}


def compile_part(part: nn.Module, example: Any, other: Any, *, threads: int) -> nn.Module:
    """`part` as OpenVINO runs it, or `part` itself where that cannot be; in evaluation mode, on the CPU, float32.

    `example` and `other` are two inputs (a tensor or a list of them) that differ in their sizes: one to translate by,
    one to compare answers on. `threads` callers are served at a time, each by one core.
    """
    try:
        compiled = Compiled(part, example, threads=threads)
        with torch.inference_mode():
            wrong = difference(part(other), compiled(other))
    except Exception as error:  # around one part of one network, with thousands of operators on either side
        log.info("%s is not compiled: %s: %s", type(part).__name__, type(error).__name__, error)
        return part
    if not wrong <= TOLERANCE:  # NaN is no agreement
        log.warning("%s is not compiled: OpenVINO's answers differ by %.2g of the largest", type(part).__name__, wrong)
        return part
    return compiled


def _openvino() -> Any:
    """The library, silent: by itself it tells its makers of every import and every translation, unless opted out."""
    spoken = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # so its import fails, and a stub is used
    try:
        import openvino
    finally:
        if spoken is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = spoken
    return openvino


class Compiled(nn.Module):
    """Called like the part it was made of. What it gives is this thread's until the same thread calls it again."""

    def __init__(self, part: nn.Module, example: Any, *, threads: int) -> None:
        super().__init__()
        openvino = _openvino()
        inputs, self._takes = pytree.tree_flatten(example)
        flat = _Flat(part, self._takes).eval()
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.trace, which OpenVINO reads networks by, is on its way out
            self._gives = pytree.tree_flatten(part(example))[1]
            # Traced by OpenVINO itself, which lets torch trace twice to compare and freezes nothing, mobilenet_v3_large
            # takes 2.9 s instead of 1.1 and comes to the same numbers. `compile_part` compares on another picture.
            trace: Any = torch.jit.trace
            traced = torch.jit.freeze(trace(flat, tuple(inputs), check_trace=False))
            model = openvino.convert_model(traced, example_input=tuple(inputs))
        settings = {**_SETTINGS, "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._own = threading.local()

    def forward(self, inputs: Any) -> Any:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        given = [tensor.contiguous().numpy() for tensor in pytree.tree_leaves(inputs)]
        answers = self._own.request.infer(given, share_inputs=True, share_outputs=True)
        return pytree.tree_unflatten([torch.from_numpy(answer) for answer in answers.values()], self._gives)


class _Flat(nn.Module):
    """A part that takes and gives tensors one by one, as OpenVINO wants it."""

    def __init__(self, part: nn.Module, takes: Any) -> None:
        super().__init__()
        self.part = part
        self._takes = takes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.part(pytree.tree_unflatten(list(inputs), self._takes))))


def compile_detector(network: Any, *, threads: int) -> None:
    """Compile the parts of a torchvision detection network that look at pixels and features, in place."""
    replace_parts(network, lambda part, first, second: compile_part(part, first, second, threads=threads))

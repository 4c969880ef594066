"""Networks in numbers of 16 bits, which a GPU multiplies several times as fast as float32.

Weights are converted once, and values where they enter and leave a part. `torch.autocast` would convert every weight in
every pass, or cache the converted ones only within a pass, and leaves batch norms, sums and pooling in the type that
comes in: more kernels, and more bytes. Everything that makes the final decision stays in float32: anchors, offsets,
suppression, softmax, and the linear layers that give the answers (their sums would be rounded to 8 bits just before an
exponential). 16 bits are off by default (`compute.precision`), because no GPU has measured them.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from batchtag.errors import UsageError
from batchtag.models.acceleration.runtime import Runtime, check_precision
from batchtag.models.acceleration.submodules import replace_parts

log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(runtime: Runtime) -> torch.dtype:
    """Return the number type in which networks compute on this machine.

    Raises UsageError if this GPU does not have it: GPUs before Ampere have no bfloat16. Runs in the worker, because
    only there the GPU is known.
    """
    precision = check_precision(runtime.device, runtime.engine, requested=runtime.precision)
    if runtime.is_on_gpu and precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(runtime.device)
        raise UsageError(f"compute.precision is 'bfloat16', which a {name} does not have; use 'float16' or 'float32'")
    return _DTYPES[precision]


class HalfPrecisionPart(nn.Module):
    """A part that computes in `dtype` and channels-last, called as the part itself.

    It takes floats of any type and returns `output_dtype`. Batch norms that could not be folded stay in float32 (except
    torchvision's frozen ones): they take floats of any type, and their variances may be tiny. In float16 the outputs
    are checked for infinities and NaN; one that an activation inside the part made finite again is not noticed.
    """

    def __init__(self, part: nn.Module, dtype: torch.dtype, *, output_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.part = part.to(dtype).to(memory_format=torch.channels_last)
        for norm in part.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.float()
        self._dtype, self._output_dtype = dtype, output_dtype
        self._has_convolutions = any(isinstance(module, nn.Conv2d) for module in part.modules())
        self._all_finite: Tensor | None = None

    def forward(self, inputs: Any) -> Any:
        outputs = self.part(pytree.tree_map(self._convert_input, inputs))
        if self._dtype is torch.float16:
            for output in pytree.tree_leaves(outputs):
                is_finite = output.isfinite().all()
                self._all_finite = is_finite if self._all_finite is None else self._all_finite & is_finite
        return pytree.tree_map(lambda output: output.to(self._output_dtype), outputs)

    def _convert_input(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and self._has_convolutions:
            return tensor.to(self._dtype, memory_format=torch.channels_last)
        return tensor.to(self._dtype)

    def take_all_finite(self) -> bool:
        """Return whether all outputs since the last call were finite; in bfloat16 always True. Waits for the device."""
        all_finite, self._all_finite = self._all_finite, None
        return all_finite is None or bool(all_finite)


class Float32Linear(nn.Module):
    """A linear layer that stays in float32 within a part that does not."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.float()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x.float())
        return output


def reduce_classifier(network: nn.Module, example: Tensor, dtype: torch.dtype, *, num_labels: int) -> nn.Module:
    """Return the network in `dtype`, except for the linear layer that gives the logits (see `reduce_part`)."""
    linears = [(name, module) for name, module in network.named_modules() if type(module) is nn.Linear]
    last = {name: copy.deepcopy(module) for name, module in linears[-1:] if module.out_features == num_labels}
    reduced = reduce_part(network, example, dtype)
    if isinstance(reduced, HalfPrecisionPart):
        for name, linear in last.items():
            reduced.part.set_submodule(name, Float32Linear(linear))
    return reduced


def reduce_detector(network: Any, dtype: torch.dtype, *, features: torch.dtype = torch.float32) -> None:
    """Replace the parts of a detection network by parts in `dtype`, in place; its backbone returns `features`.

    The network is on its device. The layers of Faster R-CNN that give a box its class and its position stay in float32;
    those of one-stage detectors do not.
    """

    def make_part(part: nn.Module, first: Any, second: Any) -> nn.Module:
        if isinstance(part, nn.Sequential) and isinstance(part[-1], FastRCNNPredictor):
            head = reduce_part(part[:-1], second, dtype)
            return nn.Sequential(head, part[-1]) if isinstance(head, HalfPrecisionPart) else part
        output_dtype = features if part is network.backbone else torch.float32
        return reduce_part(part, second, dtype, output_dtype=output_dtype)

    replace_parts(network, make_part)


def reduce_part(
    part: nn.Module, example: Any, dtype: torch.dtype, *, output_dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return a copy of `part` that computes in `dtype`, or `part` itself, with a warning, if that does not work.

    The part is in evaluation mode, on the device on which it will run; `example` is one of its inputs there.
    """
    try:
        reduced = HalfPrecisionPart(copy.deepcopy(part), dtype, output_dtype=output_dtype)
        with torch.inference_mode():
            outputs = pytree.tree_leaves(reduced(example))
        problem = "" if all(bool(output.isfinite().all()) for output in outputs) else "its outputs are not finite"
    except (RuntimeError, TypeError) as error:  # an operator has no kernel for `dtype`, or demands inputs of one type
        problem = f"{type(error).__name__}: {error}"
    if problem:
        log.warning("%s stays in float32, not %s: %s", type(part).__name__, dtype, problem)
        return part
    reduced.take_all_finite()
    return reduced


def check_for_overflow(network: nn.Module) -> None:
    """Raise ValueError if a part in float16, whose largest number is 65,504, has overflowed since the last call."""
    finite = [module.take_all_finite() for module in network.modules() if isinstance(module, HalfPrecisionPart)]
    if not all(finite):
        raise ValueError("the model's outputs overflow in float16; set compute.precision to 'float32'")

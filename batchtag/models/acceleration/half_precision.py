"""Networks in numbers of 16 bits: what a GPU multiplies several times as fast as float32.

Weights are converted once, and values where they enter and leave a part. `torch.autocast` would convert every weight
again in every pass, or keep them only within one, and leaves batch norms, sums and pooling in whatever came in: more
kernels, and more bytes. What decides stays float32, as does what decides it last: anchors, offsets, suppression,
softmax, and the linear layers that give the answers (their sums would be rounded to 8 bits just before an exponential).
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
from batchtag.models.acceleration.runtime import Runtime, precision_on
from batchtag.models.acceleration.submodules import replace_parts

log = logging.getLogger(__name__)
_KNOWN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def number_type(runtime: Runtime) -> torch.dtype:
    """What a model's networks compute in on this machine. Raises UsageError for what its card cannot.

    Runs in the worker, because only there the card is known: before Ampere there is no bfloat16.
    """
    asked = precision_on(runtime.device, runtime.engine, asked=runtime.precision)
    if runtime.on_gpu and asked == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(runtime.device)
        raise UsageError(f"compute.precision is 'bfloat16', which a {name} lacks; use 'float16' or 'float32'")
    return _KNOWN[asked]


class Reduced(nn.Module):
    """A part that computes in `dtype` and channels-last, called like it; takes any floats, and gives `gives`.

    Batch norms that could not be folded (but torchvision's frozen ones) stay in float32: they take any floats, and
    their variances may be tiny. In float16 the answers are looked at for what is no number; what an activation made
    finite again inside the part is not seen.
    """

    def __init__(self, part: nn.Module, dtype: torch.dtype, *, gives: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.part = part.to(dtype).to(memory_format=torch.channels_last)
        for norm in part.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.float()
        self._dtype, self._gives = dtype, gives
        self._has_kernels = any(isinstance(module, nn.Conv2d) for module in part.modules())
        self._all_finite: Tensor | None = None

    def forward(self, inputs: Any) -> Any:
        answers = self.part(pytree.tree_map(self._taken, inputs))
        if self._dtype is torch.float16:
            for answer in pytree.tree_leaves(answers):
                finite = answer.isfinite().all()
                self._all_finite = finite if self._all_finite is None else self._all_finite & finite
        return pytree.tree_map(lambda answer: answer.to(self._gives), answers)

    def _taken(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and self._has_kernels:
            return tensor.to(self._dtype, memory_format=torch.channels_last)
        return tensor.to(self._dtype)

    def take_all_finite(self) -> bool:
        """Whether all answers since the last question were numbers; always so in bfloat16. Waits for the device."""
        finite, self._all_finite = self._all_finite, None
        return finite is None or bool(finite)


class InFloat32(nn.Module):
    """A linear layer that stays in float32 within a part that does not."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.float()

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.linear(x.float())
        return given


def reduce_classifier(network: nn.Module, example: Tensor, dtype: torch.dtype, *, num_labels: int) -> nn.Module:
    """The network in `dtype`, but for the linear layer that gives the logits; see `reduced`."""
    last = [(name, module) for name, module in network.named_modules() if type(module) is nn.Linear][-1:]
    given = {name: copy.deepcopy(module) for name, module in last if module.out_features == num_labels}
    made = reduced(network, example, dtype)
    if isinstance(made, Reduced):
        for name, linear in given.items():
            made.part.set_submodule(name, InFloat32(linear))
    return made


def reduce_detector(network: Any, dtype: torch.dtype, *, features: torch.dtype = torch.float32) -> None:
    """The parts of a detection network in `dtype`, in place, its backbone giving `features`; on its device.

    Faster R-CNN's layers that give a box its class and its place stay in float32; those of one-stage detectors do not.
    """

    def make(part: nn.Module, example: Any, other: Any) -> nn.Module:
        if isinstance(part, nn.Sequential) and isinstance(part[-1], FastRCNNPredictor):
            head = reduced(part[:-1], other, dtype)
            return nn.Sequential(head, part[-1]) if isinstance(head, Reduced) else part
        return reduced(part, other, dtype, gives=features if part is network.backbone else torch.float32)

    replace_parts(network, make)


def reduced(part: nn.Module, example: Any, dtype: torch.dtype, *, gives: torch.dtype = torch.float32) -> nn.Module:
    """`part` in `dtype`, its answers in `gives`; or `part` itself, with a warning, if that does not work.

    The part is in evaluation mode, on the device it will run on; `example` is an input of it there.
    """
    try:
        made = Reduced(copy.deepcopy(part), dtype, gives=gives)
        with torch.inference_mode():
            answers = pytree.tree_leaves(made(example))
        wrong = "" if all(bool(one.isfinite().all()) for one in answers) else "its answers are no numbers"
    except (RuntimeError, TypeError) as error:  # an operator without a kernel for it, or one that wants one dtype
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        log.warning("%s stays in float32, not %s: %s", type(part).__name__, dtype, wrong)
        return part
    made.take_all_finite()
    return made


def check_for_overflow(network: nn.Module) -> None:
    """Raises ValueError if a part in float16, which ends at 65,504, has given what is no number since last asked."""
    finite = [module.take_all_finite() for module in network.modules() if isinstance(module, Reduced)]
    if not all(finite):
        raise ValueError("the model gives no numbers for it in float16; set compute.precision to float32")

"""Parts of a network compiled by OpenVINO: their convolutions with batch norms folded and activations fused.

Optional (`pip install 'batchtag[openvino]'`): Intel's own and well maintained library, quick on AMD's processors too.
The steps that decide what becomes a box (proposals, suppression, thresholds) stay torchvision's. Only parts that
compute from end to end are replaced, each by a module that is called in the same way. Large convolutions are computed
by Winograd's algorithm (`winograd`). A part that cannot be compiled, or whose outputs on a second input differ, stays
as it is.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from batchtag.models.acceleration.bn_folding import TOLERANCE, relative_difference
from batchtag.models.acceleration.openvino_core import import_openvino, shared_core
from batchtag.models.acceleration.submodules import replace_parts, usual_scale
from batchtag.system import available_memory_bytes

log = logging.getLogger(__name__)
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
_MEMORY_SHARES = 8
"""The intermediate results of one convolution, of all threads together, may take one share of the free memory, because
each part of a network keeps its own."""
_BOXES_PER_BATCH = 50
"""Number of boxes that a head with convolutions computes at a time; an image usually has a thousand. All at once would
need 1 GB for intermediate results."""


def compile_part(
    part: nn.Module,
    first: Any,
    second: Any,
    *,
    usual_shapes: Sequence[Sequence[int]],
    threads: int,
    batch_size: int | None = None,
) -> nn.Module:
    """Return the part compiled by OpenVINO, or `part` itself if that fails or gives other outputs.

    The part is in evaluation mode, on the CPU, in float32. `first` and `second` are inputs (a tensor or a list of them)
    of different sizes: `first` is used to translate the part, `second` to compare outputs. `usual_shapes` has the shape
    of each tensor of a usual input; a side that is equal in all three is assumed to be always equal. `threads` threads
    can call the part at the same time, and each uses one core. If `batch_size` is given, the part always computes so
    many images at a time, and fewer are padded to it; where no side is left open then, OpenVINO has less work.
    """
    for winograd in (True, False):
        try:
            compiled = CompiledPart(
                part,
                [first, second],
                usual_shapes=usual_shapes,
                threads=threads,
                batch_size=batch_size,
                winograd=winograd,
            )
            with torch.inference_mode():
                difference = relative_difference(part(second), compiled(second))
        except Exception as error:  # around one part of one network; OpenVINO and torch have thousands of operators
            log.info("%s is not compiled: %s: %s", type(part).__name__, type(error).__name__, error)
            continue
        if difference <= TOLERANCE:  # False for NaN
            return compiled
        log.warning(
            "%s is not compiled%s: OpenVINO's outputs differ by %.2g of the largest value",
            type(part).__name__,
            " with Winograd's convolutions" if winograd else "",
            difference,
        )
    return part


class CompiledPart(nn.Module):
    """A part compiled by OpenVINO, called as the part itself.

    Its output is valid until the same thread calls it again.
    """

    def __init__(
        self,
        part: nn.Module,
        examples: Sequence[Any],
        *,
        usual_shapes: Sequence[Sequence[int]],
        threads: int,
        batch_size: int | None = None,
        winograd: bool = True,
    ) -> None:
        """Compile the part. The arguments are those of `compile_part`; raises what OpenVINO raises."""
        super().__init__()
        model = trace_model(part, examples[0])
        shapes = _declared_shapes(examples, usual_shapes)
        if batch_size is not None:
            shapes = [[batch_size, *sides] for _, *sides in shapes]
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        if winograd:
            from batchtag.models.acceleration.winograd import use_winograd

            max_bytes = available_memory_bytes() // _MEMORY_SHARES // threads
            use_winograd(model, usual_shapes, max_bytes=max_bytes)
        settings = {**_SETTINGS, "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        self._compiled = shared_core().compile_model(model, "CPU", settings)
        with torch.inference_mode():
            self._output_structure = pytree.tree_structure(part(examples[0]))
        self._batch_size = batch_size
        # One request for each thread, and one for the thread that loads the model. OpenVINO 2026.4 creates no request
        # while another one computes, which may take seconds.
        self._unused_requests = [self._compiled.create_infer_request() for _ in range(threads + 1)]
        self._thread = threading.local()

    def forward(self, inputs: Any) -> Any:
        leaves = pytree.tree_leaves(inputs)
        if self._batch_size is None:
            return self._infer(leaves)
        batches = list(zip(*(leaf.split(self._batch_size) for leaf in leaves), strict=True))
        if len(batches) == 1:
            return self._infer_padded(batches[0])
        return _concatenate([pytree.tree_map(Tensor.clone, self._infer_padded(batch)) for batch in batches])

    def _infer_padded(self, leaves: Sequence[Tensor]) -> Any:
        count, missing = len(leaves[0]), cast(int, self._batch_size) - len(leaves[0])
        if not missing:
            return self._infer(leaves)
        padded = [torch.cat([leaf, leaf.new_zeros(missing, *leaf.shape[1:])]) for leaf in leaves]
        return pytree.tree_map(lambda output: output[:count], self._infer(padded))

    def _infer(self, leaves: Sequence[Tensor]) -> Any:
        if not hasattr(self._thread, "request"):
            unused = self._unused_requests
            self._thread.request = unused.pop() if unused else self._compiled.create_infer_request()
        arrays = [tensor.contiguous().numpy() for tensor in leaves]
        outputs = self._thread.request.infer(arrays, share_inputs=True, share_outputs=True)
        return pytree.tree_unflatten([torch.from_numpy(output) for output in outputs.values()], self._output_structure)


def _declared_shapes(examples: Sequence[Any], usual_shapes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the shape of each tensor of an input, with -1 for a side that varies among examples and usual shapes."""
    example_shapes = [[tensor.shape for tensor in pytree.tree_leaves(example)] for example in examples]
    return [
        [sides[0] if len(set(sides)) == 1 else -1 for sides in zip(*shapes, strict=True)]
        for shapes in zip(*example_shapes, usual_shapes, strict=True)
    ]


def _concatenate(outputs: Sequence[Any]) -> Any:
    """Concatenate the outputs of several batches, tensor by tensor."""
    leaves = [pytree.tree_leaves(output) for output in outputs]
    return pytree.tree_unflatten(
        [torch.cat(tensors) for tensors in zip(*leaves, strict=True)], pytree.tree_structure(outputs[0])
    )


def trace_model(part: nn.Module, example: Any) -> Any:
    """Return the `openvino.Model` of a part, traced on an example; its shapes are open."""
    inputs, structure = pytree.tree_flatten(example)
    openvino, trace = import_openvino(), cast(Any, torch.jit.trace)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, by which OpenVINO reads networks, is deprecated
        # If OpenVINO traces, it lets torch trace twice to compare, and freezes nothing: mobilenet_v3_large then takes
        # 2.9 s instead of 1.1 s, for the same numbers. `compile_part` compares on another input.
        traced = torch.jit.freeze(trace(_FlatPart(part, structure).eval(), tuple(inputs), check_trace=False))
        return openvino.convert_model(traced, example_input=tuple(inputs))


class _FlatPart(nn.Module):
    """A part whose inputs and outputs are single tensors, as OpenVINO needs them."""

    def __init__(self, part: nn.Module, structure: Any) -> None:
        super().__init__()
        self.part = part
        self._structure = structure

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.part(pytree.tree_unflatten(list(inputs), self._structure))))


def compile_detector(network: Any, *, threads: int) -> None:
    """Compile the parts of a torchvision detection network, in place.

    If the network resizes all images to one size, no side of its inputs is open, and images are computed one at a time.
    """
    scale = usual_scale(network.transform)
    batch_size = 1 if network.transform.fixed_size is not None else None

    def make_part(part: nn.Module, first: Any, second: Any) -> nn.Module:
        shapes = [tuple(tensor.shape) for tensor in pytree.tree_leaves(first)]
        if not isinstance(part, nn.Sequential):
            usual = [(*shape[:2], *(math.ceil(side * scale) for side in shape[2:])) for shape in shapes]
            return compile_part(part, first, second, usual_shapes=usual, threads=threads, batch_size=batch_size)
        usual = [(_BOXES_PER_BATCH, *shape[1:]) for shape in shapes]  # a box head with its predictor
        has_convolutions = any(isinstance(module, nn.Conv2d) for module in part.modules())
        boxes = _BOXES_PER_BATCH if has_convolutions else None
        return compile_part(part, first, second, usual_shapes=usual, threads=threads, batch_size=boxes)

    replace_parts(network, make_part)

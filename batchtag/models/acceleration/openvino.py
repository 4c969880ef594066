"""Parts of a network compiled by OpenVINO: its convolutions with their batch norms folded and activations fused.

Optional (`pip install 'batchtag[openvino]'`): Intel's own and well kept library, quick on AMD's processors too.
What decides what a box is (proposals, suppression, thresholds) stays torchvision's; only parts that are arithmetic from
one end to the other are replaced, each by something that is called like it. Large convolutions go Winograd's way
(`winograd`). A part that cannot be compiled, or whose answers on another image differ from its own, stays as it is.
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

from batchtag.models.acceleration.bn_folding import TOLERANCE, difference
from batchtag.models.acceleration.openvino_core import quiet_openvino, the_core
from batchtag.models.acceleration.submodules import larger_than_examples, replace_parts
from batchtag.system import available_memory

log = logging.getLogger(__name__)
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
_SHARES_OF_MEMORY = 8
"""One of so many is what all callers' steps of one convolution may take: each part of a network keeps its own."""
_BOXES = 50
"""As many boxes go through a head with convolutions at a time, of a thousand usually: all at once would need a GB for
what lies between."""


def compile_part(
    part: nn.Module,
    example: Any,
    other: Any,
    *,
    usual: Sequence[Sequence[int]],
    threads: int,
    batch: int | None = None,
) -> nn.Module:
    """`part` as OpenVINO runs it, or `part` itself where that cannot be; in evaluation mode, on the CPU, float32.

    `example` and `other` are two inputs (a tensor or a list of them) that differ in their sizes: one to translate by,
    one to compare answers on. `usual` is the shape of each tensor of one as it will be; sides in which all three agree
    are taken never to differ. `threads` callers are served at a time, each by one core. With `batch`, as many are
    computed at a time, always: fewer are filled up. Where that leaves no side open, OpenVINO does less besides.
    """
    for winograd in (True, False):
        try:
            compiled = Compiled(part, [example, other], usual=usual, threads=threads, batch=batch, winograd=winograd)
            with torch.inference_mode():
                wrong = difference(part(other), compiled(other))
        except Exception as error:  # around one part of one network, with thousands of operators on either side
            log.info("%s is not compiled: %s: %s", type(part).__name__, type(error).__name__, error)
            continue
        if wrong <= TOLERANCE:  # NaN is no agreement
            return compiled
        log.warning(
            "%s is not compiled%s: OpenVINO's answers differ by %.2g of the largest",
            type(part).__name__,
            " with Winograd's convolutions" if winograd else "",
            wrong,
        )
    return part


class Compiled(nn.Module):
    """Called like the part it was made of. What it gives is this thread's until the same thread calls it again."""

    def __init__(
        self,
        part: nn.Module,
        examples: Sequence[Any],
        *,
        usual: Sequence[Sequence[int]],
        threads: int,
        batch: int | None = None,
        winograd: bool = True,
    ) -> None:
        """Raises what OpenVINO raises. `examples` and the rest are as `compile_part` takes them."""
        super().__init__()
        model = graph_of(part, examples[0])
        shapes = _declared_shapes(examples, usual)
        if batch is not None:
            shapes = [[batch, *sides] for _, *sides in shapes]
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        if winograd:
            from batchtag.models.acceleration.winograd import use_winograd

            use_winograd(model, usual, max_bytes=available_memory() // _SHARES_OF_MEMORY // threads)
        settings = {**_SETTINGS, "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        self._compiled = the_core().compile_model(model, "CPU", settings)
        with torch.inference_mode():
            self._gives = pytree.tree_structure(part(examples[0]))
        self._batch = batch
        # One a caller, and one for who loads. OpenVINO 2026.4 makes none while another computes, which may be seconds.
        self._unused = [self._compiled.create_infer_request() for _ in range(threads + 1)]
        self._own = threading.local()

    def forward(self, inputs: Any) -> Any:
        leaves = pytree.tree_leaves(inputs)
        if self._batch is None:
            return self._answers(leaves)
        batches = list(zip(*(leaf.split(self._batch) for leaf in leaves), strict=True))
        if len(batches) == 1:
            return self._of_batch(batches[0])
        return _joined([pytree.tree_map(Tensor.clone, self._of_batch(some)) for some in batches])

    def _of_batch(self, leaves: Sequence[Tensor]) -> Any:
        count, missing = len(leaves[0]), cast(int, self._batch) - len(leaves[0])
        if not missing:
            return self._answers(leaves)
        filled = [torch.cat([leaf, leaf.new_zeros(missing, *leaf.shape[1:])]) for leaf in leaves]
        return pytree.tree_map(lambda answer: answer[:count], self._answers(filled))

    def _answers(self, leaves: Sequence[Tensor]) -> Any:
        if not hasattr(self._own, "request"):
            self._own.request = self._unused.pop() if self._unused else self._compiled.create_infer_request()
        given = [tensor.contiguous().numpy() for tensor in leaves]
        answers = self._own.request.infer(given, share_inputs=True, share_outputs=True)
        return pytree.tree_unflatten([torch.from_numpy(answer) for answer in answers.values()], self._gives)


def _declared_shapes(examples: Sequence[Any], usual: Sequence[Sequence[int]]) -> list[list[int]]:
    """The shape of each tensor of an input, with -1 for a side that differs between the examples and the usual."""
    shapes = [[one.shape for one in pytree.tree_leaves(example)] for example in examples]
    return [
        [side[0] if len(set(side)) == 1 else -1 for side in zip(*of_one, strict=True)]
        for of_one in zip(*shapes, usual, strict=True)
    ]


def _joined(answers: Sequence[Any]) -> Any:
    """The answers to the parts of a batch as the answer to the whole."""
    leaves = [pytree.tree_leaves(answer) for answer in answers]
    return pytree.tree_unflatten(
        [torch.cat(some) for some in zip(*leaves, strict=True)], pytree.tree_structure(answers[0])
    )


def graph_of(part: nn.Module, example: Any) -> Any:
    """The `openvino.Model` of a part, read from what it does with an input; its sides are open."""
    inputs, takes = pytree.tree_flatten(example)
    openvino, trace = quiet_openvino(), cast(Any, torch.jit.trace)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, which OpenVINO reads networks by, is on its way out
        # Traced by OpenVINO itself, which lets torch trace twice to compare and freezes nothing, mobilenet_v3_large
        # takes 2.9 s instead of 1.1 and comes to the same numbers. `compile_part` compares on another image.
        traced = torch.jit.freeze(trace(_Flat(part, takes).eval(), tuple(inputs), check_trace=False))
        return openvino.convert_model(traced, example_input=tuple(inputs))


class _Flat(nn.Module):
    """A part that takes and gives tensors one by one, as OpenVINO wants it."""

    def __init__(self, part: nn.Module, takes: Any) -> None:
        super().__init__()
        self.part = part
        self._takes = takes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.part(pytree.tree_unflatten(list(inputs), self._takes))))


def compile_detector(network: Any, *, threads: int) -> None:
    """Compile the parts of a torchvision detection network that look at pixels and features, in place.

    Where it resizes all images to one size, no side of what these take stays open, and images go one at a time.
    """
    larger = larger_than_examples(network.transform)
    batch = 1 if network.transform.fixed_size is not None else None

    def make(part: nn.Module, first: Any, second: Any) -> nn.Module:
        shapes = [tuple(one.shape) for one in pytree.tree_leaves(first)]
        if not isinstance(part, nn.Sequential):
            usual = [(*shape[:2], *(math.ceil(side * larger) for side in shape[2:])) for shape in shapes]
            return compile_part(part, first, second, usual=usual, threads=threads, batch=batch)
        usual = [(_BOXES, *shape[1:]) for shape in shapes]  # a box head and its predictor
        has_convolutions = any(isinstance(one, nn.Conv2d) for one in part.modules())
        boxes = _BOXES if has_convolutions else None
        return compile_part(part, first, second, usual=usual, threads=threads, batch=boxes)

    replace_parts(network, make)

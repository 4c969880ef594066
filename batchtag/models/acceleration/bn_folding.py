"""Convolutions that do their batch norm's work too: in evaluation a batch norm is one product and one sum a channel,
and both can be put into the weights of the convolution before it.

Which belong together is seen, not guessed from names: the network looks at examples, and a pair is a convolution whose
output, each time, is the very tensor that one batch norm takes. What else may use that output is not seen, so the
answers are compared before and after, and where they differ nothing is folded. Torch's own tracer (fx) would prove it
from the graph, but while it traces, every module of the process goes through it, those of other threads too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.ops import FrozenBatchNorm2d

log = logging.getLogger(__name__)
TOLERANCE = 1e-3
"""Of the largest value of an answer. Rounding gives 1e-6; a norm folded where it does not belong gives about 1."""
Norm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d


def fold_batch_norms(part: nn.Module, *examples: Any) -> nn.Module:
    """The same `part`, with every batch norm folded that follows a convolution; evaluation mode, float32, on the CPU.

    Each of `examples` is an input of it (a tensor or a list of them). Folded weights are computed in float64 and
    rounded once. The weights that the part had are left as they are: convolutions are replaced, not changed.
    """
    if not has_batch_norms(part):
        return part
    with torch.inference_mode():
        pairs, expected = _watched(part, examples)
    folded: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        folded |= {convolution: _with_norm(convolution, norm), norm: nn.Identity()}
    _replace(part, folded)
    with torch.inference_mode():
        wrong = [difference(one, part(example)) for one, example in zip(expected, examples, strict=True)]
    if not all(one <= TOLERANCE for one in wrong):  # NaN is no agreement
        log.warning("batch norms of %s stay: folded, its answers differ by %s", type(part).__name__, wrong)
        _replace(part, {new: old for old, new in folded.items()})
    return part


def has_batch_norms(network: nn.Module) -> bool:
    """Whether there may be anything to fold."""
    return any(_can_be_folded(module) for module in network.modules())


def difference(expected: Any, given: Any) -> float:
    """The largest difference of two answers, as a share of the largest value of each tensor; NaN if either has one."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(given), strict=True)
    shares = [(a - b).abs().max() / a.abs().max().clamp(min=1e-30) for a, b in pairs if a.numel()]
    return float(torch.stack(shares).max()) if shares else 0.0


def _can_be_folded(module: nn.Module) -> bool:
    """A batch norm that goes by what it learned: one without running statistics goes by what it sees."""
    if type(module) is nn.BatchNorm2d:
        return not module.training and module.running_mean is not None
    return type(module) is FrozenBatchNorm2d


def _watched(part: nn.Module, examples: Sequence[Any]) -> tuple[list[tuple[nn.Conv2d, Norm]], list[Any]]:
    """The pairs, and the answers to the examples."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    took: dict[nn.Module, set[nn.Module | None]] = {}
    calls: dict[nn.Module, int] = {}

    def saw(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module, output  # kept, so that no other tensor gets this id
        else:
            took.setdefault(module, set()).add(made.pop(id(next(iter(inputs), None)), (None, None))[0])

    watched = [m for m in part.modules() if _can_be_folded(m) or (type(m) is nn.Conv2d and not _is_hooked(m))]
    hooks = [module.register_forward_hook(saw) for module in watched]
    try:
        answers = [part(example) for example in examples]
    finally:
        for hook in hooks:
            hook.remove()
    pairs: list[tuple[nn.Conv2d, Norm]] = []
    for norm, convolutions in took.items():
        (before, *others) = convolutions
        if isinstance(before, nn.Conv2d) and not others and calls[before] == calls[norm]:
            assert isinstance(norm, Norm)
            pairs.append((before, norm))
    return pairs, answers


def _is_hooked(module: nn.Module) -> bool:
    """Whether somebody makes its weights or changes its output at every call, as `weight_norm` does."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _with_norm(convolution: nn.Conv2d, norm: Norm) -> nn.Conv2d:
    """The convolution of the same geometry that gives what both give."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() * scale
        if norm.weight is not None:
            scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
        if convolution.bias is not None:
            shift = shift + convolution.bias.double() * scale
        folded = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            stride=convolution.stride,  # type: ignore[arg-type]
            padding=convolution.padding,  # type: ignore[arg-type]
            dilation=convolution.dilation,  # type: ignore[arg-type]
            groups=convolution.groups,
            padding_mode=convolution.padding_mode,
            device="meta",
        )
        weight = convolution.weight.double() * scale[:, None, None, None]
        folded.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
        folded.bias = nn.Parameter(shift.to(convolution.weight.dtype), requires_grad=False)
    return folded.eval()


def _replace(part: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others, wherever in the part these stand."""
    for owner, name, module in list(_places(part)):
        if module in new:
            setattr(owner, name, new[module])


def _places(part: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for owner in part.modules():
        for name, module in owner._modules.items():
            if module is not None:
                yield owner, name, module

"""Batch norms folded into the convolutions before them: in evaluation mode a batch norm is one product and one sum per
channel, and both can be put into the weights of the convolution.

Which belong together is observed, not guessed from names: the network runs on examples, and a pair is a convolution
whose output, in every call, is the very tensor that one batch norm takes. Other uses of that output are not observed,
so the outputs of the network are compared before and after, and where they differ nothing is folded. torch's own tracer
(torch.fx) would prove it from the graph, but while it traces, every module of the process goes through it, also those
of other threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights
from torch.utils import _pytree as pytree
from torchvision.ops import FrozenBatchNorm2d

log = logging.getLogger(__name__)
TOLERANCE = 1e-3
"""Largest accepted difference, as a share of the largest value of an output. Rounding gives 1e-6; a batch norm that is
folded where it does not belong gives about 1."""
BatchNorm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d


def fold_batch_norms(part: nn.Module, *examples: Any) -> nn.Module:
    """Fold every batch norm of `part` that follows a convolution, in place; return `part`.

    The part is in evaluation mode, in float32, on the CPU. Each example is one of its inputs (a tensor or a list of
    them). Folded weights are computed in float64 and rounded once. Convolutions are replaced, so the weights that the
    part had before are not changed.
    """
    if not has_batch_norms(part):
        return part
    with torch.inference_mode():
        pairs, expected = _observe_pairs(part, examples)
    folded: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        folded |= {convolution: _fold_pair(convolution, norm), norm: nn.Identity()}
    _replace_modules(part, folded)
    with torch.inference_mode():
        differences = [
            relative_difference(before, part(example)) for before, example in zip(expected, examples, strict=True)
        ]
    if not all(value <= TOLERANCE for value in differences):  # written so that NaN counts as a difference
        log.warning(
            "batch norms of %s are not folded: its outputs would differ by %s", type(part).__name__, differences
        )
        _replace_modules(part, {new: old for old, new in folded.items()})
    return part


def has_batch_norms(network: nn.Module) -> bool:
    """Whether the network has a batch norm that could be folded."""
    return any(_is_foldable(module) for module in network.modules())


def relative_difference(expected: Any, given: Any) -> float:
    """Return the largest difference of two outputs, as a share of the largest value of each tensor.

    NaN if either output has one; 0.0 if both are empty.
    """
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(given), strict=True)
    shares = [(a - b).abs().max() / a.abs().max().clamp(min=1e-30) for a, b in pairs if a.numel()]
    return float(torch.stack(shares).max()) if shares else 0.0


def _is_foldable(module: nn.Module) -> bool:
    """Whether a module is a batch norm with learned statistics; one without them uses those of the batch."""
    if type(module) is nn.BatchNorm2d:
        return not module.training and module.running_mean is not None
    return type(module) is FrozenBatchNorm2d


def _observe_pairs(part: nn.Module, examples: Sequence[Any]) -> tuple[list[tuple[nn.Conv2d, BatchNorm]], list[Any]]:
    """Run the part on the examples; return its pairs of convolution and batch norm, and its outputs."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    sources: dict[nn.Module, set[nn.Module | None]] = {}
    num_calls: dict[nn.Module, int] = {}

    def observe(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        num_calls[module] = num_calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output  # the output is kept alive, so that no other tensor gets its id
        else:
            source, _ = outputs.pop(id(next(iter(inputs), None)), (None, None))
            sources.setdefault(module, set()).add(source)

    observed = [m for m in part.modules() if _is_foldable(m) or (type(m) is nn.Conv2d and not _has_hooks(m))]
    hooks = [module.register_forward_hook(observe) for module in observed]
    try:
        answers = [part(example) for example in examples]
    finally:
        for hook in hooks:
            hook.remove()
    pairs: list[tuple[nn.Conv2d, BatchNorm]] = []
    for norm, convolutions in sources.items():
        (convolution, *others) = convolutions
        if isinstance(convolution, nn.Conv2d) and not others and num_calls[convolution] == num_calls[norm]:
            assert isinstance(norm, BatchNorm)
            pairs.append((convolution, norm))
    return pairs, answers


def _has_hooks(module: nn.Module) -> bool:
    """Whether a hook makes the module's weights or changes its output in every call, as `weight_norm` does."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _fold_pair(convolution: nn.Conv2d, norm: BatchNorm) -> nn.Conv2d:
    """Make the convolution of the same geometry whose output is that of the pair."""
    dtype = convolution.weight.dtype
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            convolution.weight.double(),
            _to_double(convolution.bias),
            norm.running_mean.double(),  # type: ignore[union-attr]  # `_is_foldable` has seen it
            norm.running_var.double(),  # type: ignore[union-attr]
            norm.eps,
            _to_double(norm.weight),
            _to_double(norm.bias),
        )
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
    folded.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return folded.eval()


def _to_double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _replace_modules(part: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they are in the part."""
    for owner, name, module in list(_iter_submodules(part)):
        if module in replacements:
            setattr(owner, name, replacements[module])


def _iter_submodules(part: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield every place of a module: its owner, its name there, and the module."""
    for owner in part.modules():
        for name, module in owner._modules.items():
            if module is not None:
                yield owner, name, module

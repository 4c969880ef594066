"""Seeded networks that answer like trained ones, for measuring time where no trained weights are. Needs no pydantic.

Random weights would make the comparison empty: a random classifier says the same of every image, and a random
detector finds nothing, so nothing is suppressed, sorted or written. So the batch norms are settled on real images,
and the last layer is made from what the network sees: a classifier's gives each image a label of its own (the nearest
one it was shown), and a detector's is sharpened until a few boxes an image are sure and most proposals are background.
Time per image is that of published weights; accuracy means nothing. Published ones need a network, these none.

A random network is also chaotic: other noise of +-1 in a fifth of the pixels moved the features of the FPN by 12 %, and
no box was found again. Trained ones are smooth, so the kernels are made smooth: 0.5 %, and 7 boxes of 10 found again.
That is still less forgiving than trained weights: what pads or decodes otherwise (`model(list)`, Daft) shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.transforms.functional import pil_to_tensor

from batchtag.models.preprocessing import Preprocessing
from batchtag.models.torchvision import architectures

_SETTLING = 8
_SHOWN = 96
_TYPICAL_MARGIN = 3.0
_SURE, _SURE_SHARE = 0.3, 0.03
_PEAK = 0.7
_SMOOTH = 0.9


def classifier(builder: str, images: Sequence[Path], *, seed: int = 0) -> tuple[nn.Module, Preprocessing]:
    """A classification network and its published preprocessing; each of the images gets a label of its own."""
    network = architectures.build(builder, architectures.untrained_arguments(builder, task="classify"), seed=seed)
    preset = Preprocessing.of_preset(get_model_weights(builder).DEFAULT.transforms())
    batches = [
        preset.normalised(torch.stack([preset.centre(_read(path)) for path in images[start : start + _SETTLING]]))
        for start in range(0, min(_SHOWN, len(images)), _SETTLING)
    ]
    _smooth(network)
    _settle(network, lambda: network(batches[0]))
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    for batch in batches:
        network(batch)
    hook.remove()
    _name_the_nearest(last, torch.cat(seen)[: last.out_features])
    return network, preset


def detector(builder: str, paths: Sequence[Path], *, seed: int = 0) -> Any:
    """A Faster R-CNN that finds a few boxes in most images, with its published preprocessing."""
    network: Any = architectures.build(builder, architectures.untrained_arguments(builder, task="detect"), seed=seed)
    images = [_read(path).float().div(255) for path in paths[:4]]
    _smooth(network)
    # Proposals stay anchors, and boxes near them: random offsets would be as chaotic as random kernels.
    network.rpn.head.bbox_pred.weight.zero_()
    network.roi_heads.box_predictor.bbox_pred.weight.mul_(1 - _SMOOTH)
    _settle(network, lambda: network(images))
    predictor = network.roi_heads.box_predictor.cls_score
    seen: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    network(images)
    hook.remove()
    _sharpen(predictor, torch.cat(seen))
    return network


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        pixels: Tensor = pil_to_tensor(image.convert("RGB"))
    return pixels


def _name_the_nearest(last: nn.Linear, shown: Tensor) -> None:
    """Logits that fall with the squared distance to each of `shown` (N, features); labels beyond N are never given.

    -t |x - f|^2 / 2 is linear in x but for a term that all labels share. t makes the margin between the nearest and the
    second nearest _TYPICAL_MARGIN for the typical image.
    """
    middle = shown.mean(dim=0)
    centred = shown - middle
    squared = torch.cdist(centred, centred).square()
    squared.fill_diagonal_(torch.inf)
    sharpness = 2 * _TYPICAL_MARGIN / squared.min(dim=1).values.median()
    last.weight.zero_()
    last.bias.fill_(-1e4)
    last.weight[: len(shown)] = sharpness * centred
    last.bias[: len(shown)] = -sharpness * (centred @ middle + centred.square().sum(dim=1) / 2)


def _sharpen(predictor: nn.Linear, logits: Tensor) -> None:
    """A classification head whose logits (N, 1 + classes) of real proposals are spread as a trained one's.

    Scaled until the typical proposal prefers one class, then the background raised until few prefer any.
    """
    middle = logits.mean(dim=0)
    centred = logits - middle
    scale = _bisect(lambda by: float((by * centred[:, 1:]).softmax(dim=1).max(dim=1).values.median()) < _PEAK)
    sharp = scale * centred

    def still_too_sure(background: float) -> bool:
        raised = torch.cat([sharp[:, :1] + background, sharp[:, 1:]], dim=1)
        return float(raised.softmax(dim=1)[:, 1:].max(dim=1).values.quantile(1 - _SURE_SHARE)) > _SURE

    background = _bisect(still_too_sure)
    predictor.weight.mul_(scale)
    predictor.bias.sub_(middle).mul_(scale)
    predictor.bias[0] += background


def _bisect(is_too_low: Callable[[float], bool]) -> float:
    """Where a condition that holds for low values stops to hold, in 0 to 10,000."""
    low, high = 0.0, 1e4
    for _ in range(40):
        middle = (low * high) ** 0.5 if low > 1e-3 else (low + high) / 2
        low, high = (middle, high) if is_too_low(middle) else (low, middle)
    return high


def _smooth(network: nn.Module) -> None:
    """Draws every kernel near to its mean over space, so that it looks at more than the noise of single pixels."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            mean = module.weight.mean(dim=(2, 3), keepdim=True)
            module.weight.copy_(_SMOOTH * mean + (1 - _SMOOTH) * module.weight)


def _settle(network: nn.Module, forward: Callable[[], object]) -> None:
    """Gives batch norms the statistics of real images: with untrained ones, deep layers fade or explode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    forward()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum

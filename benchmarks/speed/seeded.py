"""Seeded networks that answer like trained ones, to measure time without trained weights. Needs no pydantic.

With random weights a comparison would be worthless: a random classifier gives every image the same label, and a random
detector finds nothing, so nothing is suppressed, sorted or written. So the batch norms get the statistics of real
images, and the last layer is made from the features of real images: a classifier gives each image a label of its own
(that of the nearest image it was made from), and a detector is sharpened until a few boxes in each image are sure and
most proposals are background. The time per image is that of published weights; accuracy means nothing. Published
weights must be downloaded, these need not.

A random network is also chaotic: noise of +-1 in a fifth of the pixels changed the features of the FPN by 12 %, and no
box was found again. Trained networks are smooth, so the kernels are made smooth: 0.5 %, and 7 of 10 boxes found again.
This is still less tolerant than trained weights, which contenders that pad or decode differently (`model(list)`, Daft)
show.
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

_BATCH_SIZE = 8
_NUM_REFERENCES = 96
"""Images from which a classifier's last layer is made."""
_TYPICAL_MARGIN = 3.0
"""Difference of the two best logits for the typical image."""
_SURE_SCORE, _SURE_SHARE = 0.3, 0.03
"""A detector's share of proposals with this score or more."""
_TYPICAL_BEST_SCORE = 0.7
"""Best score of the typical proposal among the classes, without background."""
_SMOOTHNESS = 0.9
"""Share of a kernel that is its mean over space."""


def make_classifier(builder: str, images: Sequence[Path], *, seed: int = 0) -> tuple[nn.Module, Preprocessing]:
    """Make a classification network and its published preprocessing. Each of the images gets a label of its own."""
    network = architectures.build_network(
        builder, architectures.untrained_arguments(builder, task="classify"), seed=seed
    )
    preset = Preprocessing.from_preset(get_model_weights(builder).DEFAULT.transforms())
    batches = [
        preset.normalize(torch.stack([preset.crop_centre(_read(path)) for path in images[start : start + _BATCH_SIZE]]))
        for start in range(0, min(_NUM_REFERENCES, len(images)), _BATCH_SIZE)
    ]
    _smooth_kernels(network)
    _settle_batch_norms(network, lambda: network(batches[0]))
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].clone()))
    for batch in batches:
        network(batch)
    hook.remove()
    _classify_by_nearest(last, torch.cat(features)[: last.out_features])
    return network, preset


def make_detector(builder: str, paths: Sequence[Path], *, seed: int = 0) -> Any:
    """Make a Faster R-CNN that finds a few boxes in most images, with its published preprocessing."""
    network: Any = architectures.build_network(
        builder, architectures.untrained_arguments(builder, task="detect"), seed=seed
    )
    images = [_read(path).float().div(255) for path in paths[:4]]
    _smooth_kernels(network)
    # Proposals are the anchors, and boxes are near them: random offsets would be as chaotic as random kernels.
    network.rpn.head.bbox_pred.weight.zero_()
    network.roi_heads.box_predictor.bbox_pred.weight.mul_(1 - _SMOOTHNESS)
    _settle_batch_norms(network, lambda: network(images))
    predictor = network.roi_heads.box_predictor.cls_score
    logits: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda _module, _inputs, output: logits.append(output.clone()))
    network(images)
    hook.remove()
    _sharpen(predictor, torch.cat(logits))
    return network


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        pixels: Tensor = pil_to_tensor(image.convert("RGB"))
    return pixels


def _classify_by_nearest(last: nn.Linear, references: Tensor) -> None:
    """Set the last layer so that the label is that of the nearest of `references` (N, features).

    The logit of label i is -t |x - f_i|^2 / 2, which is linear in x except for a term that all labels share. t makes
    the margin between the nearest and the second nearest _TYPICAL_MARGIN for the typical image. Labels from N on are
    never given.
    """
    middle = references.mean(dim=0)
    centred = references - middle
    squared = torch.cdist(centred, centred).square()
    squared.fill_diagonal_(torch.inf)
    sharpness = 2 * _TYPICAL_MARGIN / squared.min(dim=1).values.median()
    last.weight.zero_()
    last.bias.fill_(-1e4)
    last.weight[: len(references)] = sharpness * centred
    last.bias[: len(references)] = -sharpness * (centred @ middle + centred.square().sum(dim=1) / 2)


def _sharpen(predictor: nn.Linear, logits: Tensor) -> None:
    """Set a classification head so that its logits are spread like those of a trained one.

    `logits` (N, 1 + classes) are its present ones for real proposals. They are scaled until the typical proposal
    prefers one class; then the background is raised until few proposals prefer any class.
    """
    middle = logits.mean(dim=0)
    centred = logits - middle
    scale = _bisect(
        lambda by: float((by * centred[:, 1:]).softmax(dim=1).max(dim=1).values.median()) < _TYPICAL_BEST_SCORE
    )
    sharp = scale * centred

    def has_too_many_sure(background: float) -> bool:
        raised = torch.cat([sharp[:, :1] + background, sharp[:, 1:]], dim=1)
        return float(raised.softmax(dim=1)[:, 1:].max(dim=1).values.quantile(1 - _SURE_SHARE)) > _SURE_SCORE

    background = _bisect(has_too_many_sure)
    predictor.weight.mul_(scale)
    predictor.bias.sub_(middle).mul_(scale)
    predictor.bias[0] += background


def _bisect(is_too_low: Callable[[float], bool]) -> float:
    """Return the value from 0 to 10,000 at which a condition that holds for low values stops to hold."""
    low, high = 0.0, 1e4
    for _ in range(40):
        middle = (low * high) ** 0.5 if low > 1e-3 else (low + high) / 2
        low, high = (middle, high) if is_too_low(middle) else (low, middle)
    return high


def _smooth_kernels(network: nn.Module) -> None:
    """Move every kernel towards its mean over space, so that the noise of single pixels has little effect."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            mean = module.weight.mean(dim=(2, 3), keepdim=True)
            module.weight.copy_(_SMOOTHNESS * mean + (1 - _SMOOTHNESS) * module.weight)


def _settle_batch_norms(network: nn.Module, forward: Callable[[], object]) -> None:
    """Give batch norms the statistics of real images. With untrained ones the signal of deep layers fades or
    explodes."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    forward()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum

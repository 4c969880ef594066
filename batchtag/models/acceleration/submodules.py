"""The parts of a torchvision detection network that only compute, with example inputs to try them.

Faster R-CNN and its variants: backbone, proposal head, and box head with its predictor. RetinaNet, FCOS and SSD:
backbone and head. The steps between them decide what becomes a box (anchors, proposals, suppression, thresholds) and
are not parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

MakePart = Callable[[nn.Module, Any, Any], nn.Module]
"""Takes a part and two of its inputs, which differ in their sizes. Returns the replacement, or the part itself."""


def replace_parts(network: Any, make_part: MakePart) -> None:
    """Replace each part, in place, by what `make_part` returns for it.

    The network is in evaluation mode, in float32. The process's own random generator is left alone.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shapes = _example_shapes(network.transform)
    first, second = (torch.rand(shape, generator=generator).to(device) for shape in shapes)
    with torch.inference_mode():
        features = [list(network.backbone(images).values()) for images in (first, second)]
    network.backbone = make_part(network.backbone, first, second)
    if not hasattr(network, "roi_heads"):
        network.head = make_part(network.head, *features)
        return
    network.rpn.head = make_part(network.rpn.head, *features)
    heads = network.roi_heads
    side = heads.box_roi_pool.output_size
    num_channels = features[0][0].shape[1]
    pooled = [torch.rand(count, num_channels, *side, generator=generator).to(device) for count in (4, 7)]
    head_and_predictor = nn.Sequential(heads.box_head, heads.box_predictor)
    replacement = make_part(head_and_predictor, *pooled)
    if replacement is not head_and_predictor:
        heads.box_head, heads.box_predictor = nn.Identity(), replacement


def usual_scale(transform: Any) -> float:
    """Return how many times as wide and high an image usually is as the first example of `replace_parts`."""
    if transform.fixed_size is not None:
        return 1.0
    return float(transform.min_size[-1] / min(_example_shapes(transform)[0][-2:]))


def infer_roi_scales(network: Any) -> None:
    """Workaround: let a two-stage network infer the scales of its features from a plain image, before any other.

    torchvision (as of 0.29) infers them from the first image that it gets, and keeps them. An image that is so flat
    that 20 rows of pixels remain gives a wrong scale, and every later box of the process is searched in the wrong
    place. This can go when torchvision takes the scales from the strides of the network. The network is on the CPU, in
    evaluation mode.
    """
    pool: Any = getattr(getattr(network, "roi_heads", None), "box_roi_pool", None)
    if type(pool) is not MultiScaleRoIAlign:
        return
    shape = _example_shapes(network.transform)[0]
    with torch.inference_mode():
        pool(network.backbone(torch.zeros(shape)), [torch.tensor([[0.0, 0.0, 16.0, 16.0]])], [tuple(shape[-2:])])


def _example_shapes(transform: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of two small inputs of a backbone, or of its only size if the network has a fixed one."""
    divisor = transform.size_divisible
    if transform.fixed_size is not None:
        width, height = (-(-side // divisor) * divisor for side in transform.fixed_size)
        return (1, 3, height, width), (2, 3, height, width)
    stride = max(divisor, 32)
    return (1, 3, 4 * stride, 5 * stride), (1, 3, 6 * stride, 4 * stride)

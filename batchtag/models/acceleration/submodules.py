"""The parts of a torchvision detection network that are arithmetic from one end to the other, with inputs to try them.

Faster R-CNN and its kin: backbone, proposal head, box head with its predictor. RetinaNet, FCOS and SSD: backbone, head.
What decides what a box is (anchors, proposals, suppression, thresholds) lies between them and is no part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

Make = Callable[[nn.Module, Any, Any], nn.Module]
"""Of a part and two inputs of it that differ in their sizes: what is to stand in its place, or the part itself."""


def replace_parts(network: Any, make: Make) -> None:
    """Put what `make` gives in the place of each part. The network is in evaluation mode, in float32."""
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)  # the process's own is not ours to draw from
    first, second = (torch.rand(shape, generator=generator).to(device) for shape in _images(network.transform))
    with torch.inference_mode():
        features = [list(network.backbone(one).values()) for one in (first, second)]
    network.backbone = make(network.backbone, first, second)
    if not hasattr(network, "roi_heads"):
        network.head = make(network.head, *features)
        return
    network.rpn.head = make(network.rpn.head, *features)
    heads = network.roi_heads
    side = heads.box_roi_pool.output_size
    pooled = [torch.rand(count, features[0][0].shape[1], *side, generator=generator).to(device) for count in (4, 7)]
    both = nn.Sequential(heads.box_head, heads.box_predictor)
    made = make(both, *pooled)
    if made is not both:
        heads.box_head, heads.box_predictor = nn.Identity(), made


def larger_than_examples(transform: Any) -> float:
    """How many times as wide and high as in the first input of `replace_parts` an image usually is."""
    if transform.fixed_size is not None:
        return 1.0
    return float(transform.min_size[-1] / min(_images(transform)[0][-2:]))


def settle_scales(network: Any) -> None:
    """Let a two-stage network learn from a plain image how its features are scaled; on the CPU, in evaluation mode.

    torchvision infers that from the first image it ever sees, and keeps it: from one so flat that 20 rows of pixels
    are left of it, it learns a wrong scale, and every later box of the process is looked for in the wrong place.
    """
    pool: Any = getattr(getattr(network, "roi_heads", None), "box_roi_pool", None)
    if type(pool) is not MultiScaleRoIAlign:
        return
    shape = _images(network.transform)[0]
    with torch.inference_mode():
        pool(network.backbone(torch.zeros(shape)), [torch.tensor([[0.0, 0.0, 16.0, 16.0]])], [tuple(shape[-2:])])


def _images(transform: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of two small inputs of a backbone; of the only size there is, if the network has one."""
    divisor = transform.size_divisible
    if transform.fixed_size is not None:
        width, height = (-(-side // divisor) * divisor for side in transform.fixed_size)
        return (1, 3, height, width), (2, 3, height, width)
    stride = max(divisor, 32)
    return (1, 3, 4 * stride, 5 * stride), (1, 3, 6 * stride, 4 * stride)

"""Non-maximum suppression of many groups of boxes at once, to the same end as torchvision's `nms` of one after another.

torchvision walks down a list of boxes; its `batched_nms` calls that once a class for long lists, and each call waits
for the device. Here all groups stand side by side, (G, K), and every box asks again and again whether one that is kept
overlaps it, until nothing changes: the only state in which nothing changes is the one that walking down gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PAIRS = {"cpu": 2**22, "cuda": 2**25}
"""Compared at a time, with half a dozen numbers of 4 bytes each meanwhile."""
_ROUNDS = 4
"""Between two looks whether anything changed, each of which waits for the device."""
_FEW = {"cpu": 1000, "cuda": 25_000}
"""Of up to so many boxes of an image, torchvision moves the groups apart and suppresses all at once; see `apart`."""


def kept(boxes: Tensor, is_there: Tensor, *, iou_threshold: float) -> Tensor:
    """Which boxes no better one of their group suppresses: (G, K) bool, on the boxes' device.

    `boxes` (G, K, 4) float32 are sorted best first in every group; those that are not there suppress nothing.
    """
    at_a_time = max(1, _PAIRS[boxes.device.type] // max(1, boxes.shape[1] ** 2))
    parts = [
        _kept(boxes[first : first + at_a_time], is_there[first : first + at_a_time], iou_threshold)
        for first in range(0, len(boxes), at_a_time)
    ]
    return torch.cat(parts) if parts else is_there


def _kept(boxes: Tensor, is_there: Tensor, iou_threshold: float) -> Tensor:
    suppresses = _overlaps(boxes, iou_threshold).triu(diagonal=1)
    # As a product of matrices: the sum over all better boxes that are kept, of which any is enough.
    suppresses = suppresses.to(torch.float16 if boxes.is_cuda else torch.float32)
    keep = is_there
    while True:
        for _ in range(_ROUNDS):
            before = keep
            suppressed = torch.bmm(before[:, None, :].to(suppresses.dtype), suppresses)[:, 0] > 0
            keep = is_there & ~suppressed
        if torch.equal(before, keep):
            return keep


def _overlaps(boxes: Tensor, iou_threshold: float) -> Tensor:
    """(G, K, K) bool: whether two boxes overlap by more than that, in the arithmetic of torchvision's `nms`."""
    x_min, y_min, x_max, y_max = boxes.unbind(dim=2)
    area = (x_max - x_min) * (y_max - y_min)
    shared = _side(x_min, x_max) * _side(y_min, y_max)
    together = (area[:, :, None] + area[:, None, :]).sub_(shared)
    return shared.div_(together) > iou_threshold


def _side(low: Tensor, high: Tensor) -> Tensor:
    """The length that two boxes share along one axis."""
    right = torch.minimum(high[:, :, None], high[:, None, :])
    return right.sub_(torch.maximum(low[:, :, None], low[:, None, :])).clamp_(min=0)


def apart(boxes: Tensor, labels: Tensor, images: Tensor, *, num_images: int) -> Tensor:
    """Boxes (N, 4) moved as torchvision's `batched_nms` moves them where an image has few: each label to a place of
    its own. Groups need none here; but so far from zero a box is rounded, and so must it be to the same answers.
    """
    if not len(boxes):
        return boxes
    counts = torch.bincount(images, minlength=num_images)
    largest = boxes.new_zeros(num_images).scatter_reduce_(0, images, boxes.amax(dim=1), "amax", include_self=False)
    steps = torch.where(counts <= _FEW[boxes.device.type], largest + 1, 0)
    return boxes + (labels.to(boxes) * steps[images])[:, None]


def grouped(groups: Tensor, scores: Tensor, *, num_groups: int) -> tuple[Tensor, Tensor]:
    """The boxes of every group that has any, best first: their positions (G, K) int64, and which are there (G, K).

    `groups` (N,) int64 are numbers below `num_groups`. Of equal scores the earlier comes first.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups, minlength=num_groups)
    sizes = sizes[sizes > 0]
    longest = int(sizes.max())
    column = torch.arange(longest, device=groups.device)
    is_there = column < sizes[:, None]
    first = sizes.cumsum(0) - sizes
    return order[(first[:, None] + column).clamp_(max=len(order) - 1)], is_there

"""Non-maximum suppression of many groups of boxes at once, with the same result as torchvision's `nms` for each group.

torchvision walks down a sorted list of boxes. Its `batched_nms` does that once per class if the list is long, and waits
for the device each time. Here all groups are one tensor (G, K), and every box checks repeatedly whether a kept box
overlaps it, until nothing changes. There is only one state in which nothing changes: the one that walking down the list
gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_PAIRS = {"cpu": 2**22, "cuda": 2**25}
"""Number of pairs of boxes that are compared at a time, by device; each needs about six numbers of 4 bytes."""
_ROUNDS_PER_CHECK = 4
"""Rounds between two checks whether anything changed; each check waits for the device."""
_MAX_OFFSET_BOXES = {"cpu": 1000, "cuda": 25_000}
"""Largest number of boxes of an image for which torchvision suppresses all labels at once; see `offset_boxes`."""


def nms_mask(boxes: Tensor, is_present: Tensor, *, iou_threshold: float) -> Tensor:
    """Return which boxes no better box of their group suppresses: (G, K) bool, on the boxes' device.

    `boxes` (G, K, 4) float32 are sorted best first in every group. `is_present` (G, K) bool is False for padding, which
    suppresses nothing and is not kept.
    """
    groups_at_a_time = max(1, _MAX_PAIRS[boxes.device.type] // max(1, boxes.shape[1] ** 2))
    masks = [
        _nms_mask(boxes[first : first + groups_at_a_time], is_present[first : first + groups_at_a_time], iou_threshold)
        for first in range(0, len(boxes), groups_at_a_time)
    ]
    return torch.cat(masks) if masks else is_present


def _nms_mask(boxes: Tensor, is_present: Tensor, iou_threshold: float) -> Tensor:
    suppresses = _overlaps(boxes, iou_threshold).triu(diagonal=1)
    # A matrix product counts the better boxes that are kept and overlap a box; one of them suppresses it.
    suppresses = suppresses.to(torch.float16 if boxes.is_cuda else torch.float32)
    keep = is_present
    while True:
        for _ in range(_ROUNDS_PER_CHECK):
            before = keep
            is_suppressed = torch.bmm(before[:, None, :].to(suppresses.dtype), suppresses)[:, 0] > 0
            keep = is_present & ~is_suppressed
        if torch.equal(before, keep):
            return keep


def _overlaps(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Return whether two boxes overlap by more than the threshold: (G, K, K) bool, computed as torchvision's `nms`."""
    x_min, y_min, x_max, y_max = boxes.unbind(dim=2)
    area = (x_max - x_min) * (y_max - y_min)
    intersection = _shared_length(x_min, x_max) * _shared_length(y_min, y_max)
    union = (area[:, :, None] + area[:, None, :]).sub_(intersection)
    return intersection.div_(union) > iou_threshold


def _shared_length(low: Tensor, high: Tensor) -> Tensor:
    """Return the length that two boxes share along one axis: (G, K, K)."""
    smaller_high = torch.minimum(high[:, :, None], high[:, None, :])
    return smaller_high.sub_(torch.maximum(low[:, :, None], low[:, None, :])).clamp_(min=0)


def offset_boxes(boxes: Tensor, labels: Tensor, image_ids: Tensor, *, num_images: int) -> Tensor:
    """Move boxes (N, 4) as torchvision's `batched_nms` moves them, so that boxes of different labels never overlap.

    torchvision does that in images with few boxes. Groups make it unnecessary here, but far from zero the coordinates
    are rounded, and the results are only equal if ours are rounded in the same way. `labels` and `image_ids` are (N,)
    int64.
    """
    if not len(boxes):
        return boxes
    counts = torch.bincount(image_ids, minlength=num_images)
    largest = boxes.new_zeros(num_images).scatter_reduce_(0, image_ids, boxes.amax(dim=1), "amax", include_self=False)
    steps = torch.where(counts <= _MAX_OFFSET_BOXES[boxes.device.type], largest + 1, 0)
    return boxes + (labels.to(boxes) * steps[image_ids])[:, None]


def group_boxes(group_ids: Tensor, scores: Tensor, *, num_groups: int) -> tuple[Tensor, Tensor]:
    """Arrange the boxes of all groups that are not empty as rows, best first.

    `group_ids` (N,) int64 are numbers below `num_groups`. Returns the positions of the boxes (G, K) int64, and which of
    them are present (G, K) bool; the others are padding. Of equal scores the earlier position comes first.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[group_ids[order].argsort(stable=True)]
    sizes = torch.bincount(group_ids, minlength=num_groups)
    sizes = sizes[sizes > 0]
    column = torch.arange(int(sizes.max()), device=group_ids.device)
    is_present = column < sizes[:, None]
    first = sizes.cumsum(0) - sizes
    return order[(first[:, None] + column).clamp_(max=len(order) - 1)], is_present

"""Faster R-CNN on a batch without a loop over its images: torchvision's results in fewer and larger steps.

torchvision resizes, filters proposals, suppresses and scales boxes back image by image, and waits for the device a
dozen times in each. A GPU that needs 2 ms for the convolutions of an image then waits for Python. Here each step is
done once for the batch: only chosen proposals are decoded, anchors are cached by shape, and one suppression covers all
images and levels (or classes). The formulas are torchvision's, so the numbers are equal. Networks that are not exactly
torchvision's own classes are left to torchvision, and so are CPUs in float32: comparing all boxes with all others is
more arithmetic than walking down a list (four photos of resnet50_fpn on one core: 522 ms for proposals and boxes here,
106 ms there), which only a GPU has to spare. On GPUs this is always used; no GPU has measured its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from batchtag.models.acceleration.batched_nms import group_boxes, nms_mask, offset_boxes

_MIN_BOX_SIDE = 1e-2
"""Smallest side of a box in pixels of the resized image; torchvision's own limit."""
_MAX_CACHED_SHAPES = 64
"""Number of image shapes whose anchors are cached; the largest take about 12 MB each."""


def supports_batched_rcnn(network: Any) -> bool:
    """Whether a detection network consists of exactly the classes whose arithmetic this module repeats."""
    return (
        type(network.transform) is GeneralizedRCNNTransform
        and type(getattr(network, "rpn", None)) is RegionProposalNetwork
        and type(network.rpn.anchor_generator) is AnchorGenerator
        and type(getattr(network, "roi_heads", None)) is RoIHeads
        and type(network.roi_heads.box_roi_pool) is MultiScaleRoIAlign
        and not network.roi_heads.has_mask()
        and not network.roi_heads.has_keypoint()
    )


class BatchedRcnn(nn.Module):
    """A Faster R-CNN for batches of images (3, H, W), uint8 or float32 in [0, 1], of one padded shape, on its device.

    Returns the boxes of all images as (N, 7) float32 on the device: the corners in pixels of the image given, score,
    label id, and the position of the image in the call. Rows are ordered by image, and best first within an image.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._anchors: dict[tuple[Any, ...], Tensor] = {}

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        batch, sizes = prepare_batch(self.network.transform, images)
        features = self.network.backbone(batch)
        limits = torch.tensor(sizes, dtype=torch.float32).to(batch.device)
        proposals = self.propose(batch, features, limits)
        image_ids = torch.arange(len(proposals)).repeat_interleave(torch.tensor([len(boxes) for boxes in proposals]))
        image_ids = image_ids.to(batch.device)
        logits, offsets = self._run_box_head(features, proposals, sizes)
        boxes, scores, labels, image_ids = self.detect(logits, offsets, torch.cat(proposals), image_ids, limits)
        original = torch.tensor([image.shape[-2:] for image in images], dtype=torch.float32)
        scale_yx = (original / torch.tensor(sizes, dtype=torch.float32)).to(batch.device)[image_ids]
        boxes = boxes * scale_yx[:, [1, 0, 1, 0]]
        return torch.cat([boxes, scores[:, None], labels[:, None].float(), image_ids[:, None].float()], dim=1)

    def propose(self, batch: Tensor, features: Any, limits: Tensor) -> list[Tensor]:
        """Return the proposals of each image: (P, 4) float32 in pixels of the resized image, best first.

        `limits` (N, 2) float32 is the height and width of each resized image.
        """
        rpn = self.network.rpn
        levels = list(features.values())
        objectness, deltas = rpn.head(levels)
        anchors = self._anchors_of(batch, levels)
        num_images, first = len(batch), 0
        best_by_level: list[tuple[Tensor, Tensor]] = []
        for scores_map, deltas_map in zip(objectness, deltas, strict=True):
            scores = scores_map.float().permute(0, 2, 3, 1).flatten(1)
            height, width = deltas_map.shape[-2:]
            offsets = deltas_map.reshape(num_images, -1, 4, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
            best = scores.topk(min(rpn.pre_nms_top_n(), scores.shape[1]), dim=1)
            picked = offsets.gather(1, best.indices[:, :, None].expand(-1, -1, 4)).float()
            boxes = rpn.box_coder.decode_single(picked.flatten(0, 1), anchors[first + best.indices].flatten(0, 1))
            best_by_level.append((boxes.view(num_images, -1, 4), best.values.sigmoid()))
            first += scores.shape[1]
        return self._suppress_proposals(best_by_level, limits)

    def _anchors_of(self, batch: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Return the anchors of all levels of one image, (A, 4) float32. They depend on shapes only."""
        key = (tuple(batch.shape[-2:]), *(tuple(level.shape[-2:]) for level in levels))
        anchors = self._anchors.get(key)
        if anchors is None:
            # The generator takes dtype and shape from the features, whose own dtype may be of 16 bits.
            stand_ins = [batch.new_empty(1).expand(level.shape) for level in levels]
            image = ImageList(batch[:1], [(int(batch.shape[-2]), int(batch.shape[-1]))])
            anchors = self.network.rpn.anchor_generator(image, stand_ins)[0]
            if len(self._anchors) >= _MAX_CACHED_SHAPES:
                self._anchors.clear()
            self._anchors[key] = anchors
        return anchors

    def _suppress_proposals(self, best_by_level: Sequence[tuple[Tensor, Tensor]], limits: Tensor) -> list[Tensor]:
        """Suppress overlapping proposals within each level; return the best of all levels for each image."""
        rpn = self.network.rpn
        num_images, longest = len(limits), max(scores.shape[1] for _, scores in best_by_level)
        padded_boxes = [functional.pad(boxes, (0, 0, 0, longest - boxes.shape[1])) for boxes, _ in best_by_level]
        padded_scores = [
            functional.pad(scores, (0, longest - scores.shape[1]), value=-1) for _, scores in best_by_level
        ]
        boxes, scores = torch.stack(padded_boxes, dim=1), torch.stack(padded_scores, dim=1)
        boxes = _clip_boxes(boxes, limits[:, None, None])
        sides = boxes[..., 2:] - boxes[..., :2]
        is_present = (sides >= rpn.min_size).all(dim=-1) & (scores >= max(rpn.score_thresh, 0.0))
        image_ids, level, _ = is_present.nonzero(as_tuple=True)
        moved = torch.zeros_like(boxes)
        moved[is_present] = offset_boxes(boxes[is_present], level, image_ids, num_images=num_images)
        keep = nms_mask(moved.flatten(0, 1), is_present.flatten(0, 1), iou_threshold=rpn.nms_thresh)
        keep = keep.view(num_images, -1)
        scores = scores.flatten(1).masked_fill(~keep, -1.0)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : rpn.post_nms_top_n()]
        boxes = boxes.flatten(1, 2).gather(1, best[:, :, None].expand(-1, -1, 4))
        counts = keep.sum(dim=1).tolist()
        return [sorted_boxes[:count] for sorted_boxes, count in zip(boxes, counts, strict=True)]

    def _run_box_head(
        self, features: Any, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (P, C) and box offsets (P, 4 C) of all proposals, float32."""
        heads = self.network.roi_heads
        # RoI align has no kernel for bfloat16, and would round coordinates in 16 bits. It needs contiguous planes, too.
        planes = {name: level.float().contiguous() for name, level in features.items()}
        logits, offsets = heads.box_predictor(heads.box_head(heads.box_roi_pool(planes, proposals, sizes)))
        return logits.float(), offsets.float()

    def detect(
        self, logits: Tensor, offsets: Tensor, proposals: Tensor, image_ids: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes (N, 4) in pixels of the resized image, and their scores, label ids and image ids (N,).

        They are ordered by image, and best first within an image. `limits` is as in `propose`.
        """
        heads, num_classes, num_images = self.network.roi_heads, logits.shape[-1], len(limits)
        all_scores = logits.softmax(dim=-1)
        all_boxes = heads.box_coder.decode_single(offsets, proposals).view(-1, num_classes, 4)
        all_boxes = _clip_boxes(all_boxes, limits[image_ids][:, None])
        sides = all_boxes[..., 2:] - all_boxes[..., :2]
        is_present = (all_scores > heads.score_thresh) & (sides >= _MIN_BOX_SIDE).all(dim=-1)
        is_present[:, 0] = False  # the background
        row, labels = is_present.nonzero(as_tuple=True)
        boxes, scores, image_ids = all_boxes[row, labels], all_scores[row, labels], image_ids[row]
        if not len(row):
            return boxes, scores, labels, image_ids
        groups, is_member = group_boxes(image_ids * num_classes + labels, scores, num_groups=num_images * num_classes)
        moved = offset_boxes(boxes, labels, image_ids, num_images=num_images)
        keep = groups[nms_mask(moved[groups], is_member, iou_threshold=heads.nms_thresh)].sort().values
        keep = keep[scores[keep].argsort(descending=True, stable=True)]
        keep = keep[image_ids[keep].argsort(stable=True)]
        counts = torch.bincount(image_ids[keep], minlength=num_images)
        rank = torch.arange(len(keep), device=keep.device) - (counts.cumsum(0) - counts)[image_ids[keep]]
        keep = keep[rank < heads.detections_per_img]
        return boxes[keep], scores[keep], labels[keep], image_ids[keep]


def prepare_batch(transform: Any, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Do what torchvision's transform does with images (3, H, W), with images of one shape in one step.

    Returns one batch (N, 3, H, W) float32, and the height and width of each image within it, before padding.
    """
    if len({image.shape for image in images}) == 1:
        resized = [_normalize_and_resize(transform, torch.stack(list(images)))]
        sizes = [resized[0].shape[-2:]] * len(images)
    else:
        resized = [_normalize_and_resize(transform, image[None]) for image in images]
        sizes = [image.shape[-2:] for image in resized]
    stride = transform.size_divisible
    height, width = (-(-max(size[side] for size in sizes) // stride) * stride for side in (0, 1))
    padded = [functional.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in resized]
    return torch.cat(padded), [(int(size[0]), int(size[1])) for size in sizes]


def _normalize_and_resize(transform: Any, images: Tensor) -> Tensor:
    """Turn (N, 3, H, W) uint8 or float32 into normalized float32 of the size that the network uses."""
    values = images if images.is_floating_point() else images.float().div_(255)
    mean, std = (values.new_tensor(rgb)[:, None, None] for rgb in (transform.image_mean, transform.image_std))
    values = (values - mean) / std
    height, width = values.shape[-2:]
    size: dict[str, Any]
    if transform.fixed_size is not None:
        size = {"size": (transform.fixed_size[1], transform.fixed_size[0])}
    else:
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        size = {"scale_factor": scale, "recompute_scale_factor": True}
    return functional.interpolate(values, mode="bilinear", align_corners=False, **size)


def _clip_boxes(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clip boxes (..., 4) to their image; `limits` (..., 2) is its height and width."""
    largest = torch.stack([limits[..., 1], limits[..., 0]] * 2, dim=-1)
    return torch.minimum(boxes.clamp(min=0), largest)

"""Faster R-CNN over a batch without a loop over its images: torchvision's answers in fewer and larger steps.

torchvision resizes, filters proposals, suppresses and scales boxes back image by image, and waits for the device a
dozen times in each; a GPU that needs 2 ms for the convolutions of an image then waits for Python. Here each of these
is done once for the batch: only proposals that are chosen are decoded, anchors of a shape are kept, suppression is one
for all images and levels (or classes). The numbers are computed by the same formulas, so they are the same numbers.
Networks that are not exactly torchvision's own classes go torchvision's way, and so do CPUs in float32: comparing all
boxes with all at once is more arithmetic than walking down a list (four photos of resnet50_fpn on one core: 522 ms for
proposals and boxes here, 106 ms there), which only a GPU has to spare.
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

from batchtag.models.acceleration.batched_nms import apart, grouped, kept

_SMALLEST_BOX = 1e-2
"""torchvision's own, in pixels of the resized image."""
_SHAPES = 64
"""Kept anchors: a dozen MB each of the largest."""


def goes_in_batches(network: Any) -> bool:
    """Whether a detection network is made of exactly the classes whose arithmetic this room repeats."""
    return (
        type(network.transform) is GeneralizedRCNNTransform
        and type(getattr(network, "rpn", None)) is RegionProposalNetwork
        and type(network.rpn.anchor_generator) is AnchorGenerator
        and type(getattr(network, "roi_heads", None)) is RoIHeads
        and type(network.roi_heads.box_roi_pool) is MultiScaleRoIAlign
        and not network.roi_heads.has_mask()
        and not network.roi_heads.has_keypoint()
    )


class RcnnInBatches(nn.Module):
    """Called with images (3, H, W) on the network's device, uint8 or float32 in 0 to 1, of one padded shape.

    Gives all their boxes as (N, 7) float32 on the device: corners in pixels of the image given, score, label, and the
    number of the image in the call; by image, and best first in each.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self._anchors: dict[tuple[Any, ...], Tensor] = {}

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        batch, sizes = prepared(self.network.transform, images)
        features = self.network.backbone(batch)
        limits = torch.tensor(sizes, dtype=torch.float32).to(batch.device)
        proposals = self.proposals(batch, features, limits)
        image_ids = torch.arange(len(proposals)).repeat_interleave(torch.tensor([len(one) for one in proposals]))
        image_ids = image_ids.to(batch.device)
        logits, offsets = self._look_closer(features, proposals, sizes)
        boxes, scores, labels, image_ids = self.detections(logits, offsets, torch.cat(proposals), image_ids, limits)
        given = torch.tensor([image.shape[-2:] for image in images], dtype=torch.float32)
        scale_yx = (given / torch.tensor(sizes, dtype=torch.float32)).to(batch.device)[image_ids]
        boxes = boxes * scale_yx[:, [1, 0, 1, 0]]
        return torch.cat([boxes, scores[:, None], labels[:, None].float(), image_ids[:, None].float()], dim=1)

    def proposals(self, batch: Tensor, features: Any, limits: Tensor) -> list[Tensor]:
        """Where to look closer: (P, 4) float32 in pixels of the resized image for each image, best first.

        `limits` (N, 2) float32 is each resized image's height and width.
        """
        rpn = self.network.rpn
        levels = list(features.values())
        objectness, deltas = rpn.head(levels)
        anchors = self._anchors_of(batch, levels)
        num_images, first = len(batch), 0
        chosen: list[tuple[Tensor, Tensor]] = []
        for scores_map, deltas_map in zip(objectness, deltas, strict=True):
            scores = scores_map.float().permute(0, 2, 3, 1).flatten(1)
            height, width = deltas_map.shape[-2:]
            offsets = deltas_map.reshape(num_images, -1, 4, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
            best = scores.topk(min(rpn.pre_nms_top_n(), scores.shape[1]), dim=1)
            picked = offsets.gather(1, best.indices[:, :, None].expand(-1, -1, 4)).float()
            boxes = rpn.box_coder.decode_single(picked.flatten(0, 1), anchors[first + best.indices].flatten(0, 1))
            chosen.append((boxes.view(num_images, -1, 4), best.values.sigmoid()))
            first += scores.shape[1]
        return self._filtered(chosen, limits)

    def _anchors_of(self, batch: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """(A, 4) float32 for all levels of one image. They depend on shapes alone."""
        key = (tuple(batch.shape[-2:]), *(tuple(level.shape[-2:]) for level in levels))
        anchors = self._anchors.get(key)
        if anchors is None:
            # The generator takes dtype and shape from the features, whose values may be of reduced precision.
            shaped = [batch.new_empty(1).expand(level.shape) for level in levels]
            one = ImageList(batch[:1], [(int(batch.shape[-2]), int(batch.shape[-1]))])
            anchors = self.network.rpn.anchor_generator(one, shaped)[0]
            if len(self._anchors) >= _SHAPES:
                self._anchors.clear()
            self._anchors[key] = anchors
        return anchors

    def _filtered(self, chosen: Sequence[tuple[Tensor, Tensor]], limits: Tensor) -> list[Tensor]:
        """What is left of each level's best after suppression, over all levels."""
        rpn = self.network.rpn
        num_images, longest = len(limits), max(scores.shape[1] for _, scores in chosen)
        boxes = torch.stack([functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in chosen], dim=1)
        scores = torch.stack([functional.pad(one, (0, longest - one.shape[1]), value=-1) for _, one in chosen], dim=1)
        boxes = _inside(boxes, limits[:, None, None])
        sides = boxes[..., 2:] - boxes[..., :2]
        is_there = (sides >= rpn.min_size).all(dim=-1) & (scores >= max(rpn.score_thresh, 0.0))
        image, level, _ = is_there.nonzero(as_tuple=True)
        moved = torch.zeros_like(boxes)
        moved[is_there] = apart(boxes[is_there], level, image, num_images=num_images)
        keep = kept(moved.flatten(0, 1), is_there.flatten(0, 1), iou_threshold=rpn.nms_thresh)
        keep = keep.view(num_images, -1)
        scores = scores.flatten(1).masked_fill(~keep, -1.0)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : rpn.post_nms_top_n()]
        boxes = boxes.flatten(1, 2).gather(1, best[:, :, None].expand(-1, -1, 4))
        counts = keep.sum(dim=1).tolist()
        return [some[:count] for some, count in zip(boxes, counts, strict=True)]

    def _look_closer(
        self, features: Any, proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (P, C) and box offsets (P, 4 C) of all proposals, float32."""
        heads = self.network.roi_heads
        # Pooling has no kernel for bfloat16, and would round coordinates to it; it wants planes, too.
        planes = {name: level.float().contiguous() for name, level in features.items()}
        logits, offsets = heads.box_predictor(heads.box_head(heads.box_roi_pool(planes, proposals, sizes)))
        return logits.float(), offsets.float()

    def detections(
        self, logits: Tensor, offsets: Tensor, proposals: Tensor, images: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, 4) in pixels of the resized image, scores, labels and images (N,); by image, best first."""
        heads, num_classes, num_images = self.network.roi_heads, logits.shape[-1], len(limits)
        all_scores = logits.softmax(dim=-1)
        all_boxes = heads.box_coder.decode_single(offsets, proposals).view(-1, num_classes, 4)
        all_boxes = _inside(all_boxes, limits[images][:, None])
        sides = all_boxes[..., 2:] - all_boxes[..., :2]
        is_there = (all_scores > heads.score_thresh) & (sides >= _SMALLEST_BOX).all(dim=-1)
        is_there[:, 0] = False  # the background
        row, labels = is_there.nonzero(as_tuple=True)
        boxes, scores, images = all_boxes[row, labels], all_scores[row, labels], images[row]
        if not len(row):
            return boxes, scores, labels, images
        groups, is_member = grouped(images * num_classes + labels, scores, num_groups=num_images * num_classes)
        moved = apart(boxes, labels, images, num_images=num_images)
        keep = groups[kept(moved[groups], is_member, iou_threshold=heads.nms_thresh)].sort().values
        keep = keep[scores[keep].argsort(descending=True, stable=True)]
        keep = keep[images[keep].argsort(stable=True)]
        counts = torch.bincount(images[keep], minlength=num_images)
        rank = torch.arange(len(keep), device=keep.device) - (counts.cumsum(0) - counts)[images[keep]]
        keep = keep[rank < heads.detections_per_img]
        return boxes[keep], scores[keep], labels[keep], images[keep]


def prepared(transform: Any, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """What torchvision's transform makes of images (3, H, W): one batch (N, 3, H, W) float32, and the size of each
    within it, before padding. Images of one shape go through all of it together.
    """
    if len({image.shape for image in images}) == 1:
        ready = [_resized(transform, torch.stack(list(images)))]
        sizes = [ready[0].shape[-2:]] * len(images)
    else:
        ready = [_resized(transform, image[None]) for image in images]
        sizes = [one.shape[-2:] for one in ready]
    stride = transform.size_divisible
    height, width = (-(-max(size[side] for size in sizes) // stride) * stride for side in (0, 1))
    padded = [functional.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in ready]
    return torch.cat(padded), [(int(size[0]), int(size[1])) for size in sizes]


def _resized(transform: Any, images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 or float32 to float32, normalised, of the size that the network wants."""
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


def _inside(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes (..., 4) clipped to their image; `limits` (..., 2) is its height and width."""
    most = torch.stack([limits[..., 1], limits[..., 0]] * 2, dim=-1)
    return torch.minimum(boxes.clamp(min=0), most)

"""Faster R-CNN over a batch at once: torchvision's own boxes to the last bit, and suppression as it suppresses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models as published
from torchvision import ops
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.transforms.functional import pil_to_tensor

from batchtag.models.acceleration import batched_nms
from batchtag.models.acceleration.batched_nms import apart, grouped, kept
from batchtag.models.acceleration.batched_rcnn import RcnnInBatches, goes_in_batches, prepared
from batchtag.models.detector import batches_of_one_shape, padded_shape
from batchtag.models.torchvision.architectures import build, limits, untrained_arguments

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
Awake = Callable[..., nn.Module]


def both(network: Any, images: list[Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """What this room and what torchvision say of each image (3, H, W) uint8 of one call."""
    with torch.inference_mode():
        ours = RcnnInBatches(network)(images)
        theirs = network([image / 255 for image in images])
    return [(ours[ours[:, 6] == number], one) for number, one in enumerate(theirs)]


def assert_equal(ours: Tensor, theirs: dict[str, Tensor]) -> int:
    """To the last bit; gives how many boxes were compared.

    Of boxes with one and the same score torchvision's sort puts any first, so their order is not compared, nor which of
    those with the last score are the ones that there was still room for.
    """
    assert torch.equal(ours[:, 4], theirs["scores"])
    mine = ours[:, [4, 5, 0, 1, 2, 3]]
    rows = torch.cat([theirs["scores"][:, None], theirs["labels"][:, None].float(), theirs["boxes"]], dim=1)
    compared = [sorted(some[some[:, 0] > rows[:, 0].min()].tolist()) if len(rows) else [] for some in (mine, rows)]
    assert compared[0] == compared[1]
    return len(compared[0])


def batches(network: Any, photos: list[Image.Image]) -> list[list[Tensor]]:
    """Five photographs, with each mirrored twice beside it, in batches of one padded shape."""
    tensors = [flipped for photo in map(pil_to_tensor, photos[:5]) for flipped in (photo, photo.flip(2), photo.flip(1))]
    shapes = [padded_shape(network.transform, *tensor.shape[1:]) for tensor in tensors]
    return [[tensors[i] for i in some] for some in batches_of_one_shape(shapes, 4)]


def test_a_batch_gives_exactly_the_boxes_that_torchvision_gives(
    awake_detector: Awake, photos: list[Image.Image]
) -> None:
    network = awake_detector(SMALL, box_score_thresh=0.05)
    several = batches(network, photos)
    assert max(len(batch) for batch in several) > 2
    assert sum(assert_equal(*pair) for batch in several for pair in both(network, batch)) > 300


def test_a_larger_network_and_its_many_proposals_too(awake_detector: Awake, photos: list[Image.Image]) -> None:
    """Five levels of a thousand proposals each; torchvision suppresses so many level by level."""
    network = awake_detector("fasterrcnn_resnet50_fpn", box_score_thresh=0.1, min_size=256, max_size=400)
    batch = max(batches(network, photos), key=len)[:2]
    for ours, theirs in both(network, batch):
        assert assert_equal(ours, theirs) > 20


def test_an_untrained_network_that_keeps_every_class_of_every_proposal() -> None:
    arguments = untrained_arguments(SMALL, task="detect") | limits(SMALL, score_floor=0.0, max_tags=300)
    network = build(SMALL, arguments, seed=3)
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 60, 90), dtype=np.uint8)) for _ in range(2)]
    for ours, theirs in both(network, images):
        assert len(ours) == 300
        assert_equal(ours, theirs)


def test_images_without_a_box_alone_and_beside_one_with_some(awake_detector: Awake, photos: list[Image.Image]) -> None:
    network: Any = copy.deepcopy(awake_detector(SMALL, box_score_thresh=0.05))
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.weight.div_(10)  # or both would be as sure as can be
    network.roi_heads.score_thresh = 0.0
    lively = pil_to_tensor(photos[0])
    dull = torch.full_like(lively, 128)
    highest = [float(theirs["scores"].max()) for _, theirs in both(network, [dull, lively])]
    assert highest[0] != highest[1]
    network.roi_heads.score_thresh = sum(highest) / 2
    beside = both(network, [dull, lively, dull])
    assert sorted(len(ours) > 0 for ours, _ in beside) in ([False, True, True], [False, False, True])
    network.roi_heads.score_thresh = 1.0
    none = both(network, [dull, lively])
    assert [len(ours) for ours, _ in none] == [0, 0]
    for ours, theirs in beside + none:
        assert_equal(ours, theirs)


def test_networks_that_are_not_torchvision_s_own_go_its_way() -> None:
    with torch.device("meta"):
        ordinary: Any = build(SMALL, untrained_arguments(SMALL, task="detect"))
        assert goes_in_batches(ordinary)
        for other in ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "keypointrcnn_resnet50_fpn"):
            assert not goes_in_batches(build(other, untrained_arguments(other, task="detect")))
    ordinary.roi_heads.__class__ = type("Other", (type(ordinary.roi_heads),), {})
    assert not goes_in_batches(ordinary)
    assert isinstance(ordinary.roi_heads.box_predictor, FastRCNNPredictor)


def test_images_of_several_shapes_are_prepared_as_torchvision_prepares_them() -> None:
    transform = published.detection.transform.GeneralizedRCNNTransform(200, 333, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in [(90, 120), (91, 120), (90, 120)]]
    expected, _ = transform.eval()([image / 255 for image in images])
    batch, sizes = prepared(transform, images)
    assert torch.equal(batch, expected.tensors)
    assert sizes == [tuple(size) for size in expected.image_sizes]
    together, _ = prepared(transform, images[::2])
    assert torch.equal(together, batch[::2, :, : together.shape[2]])


@pytest.mark.parametrize("num_boxes", [0, 1, 40, 700, 3000])
def test_all_groups_at_once_suppress_what_one_after_another_does(num_boxes: int) -> None:
    """Dense boxes, so that chains of suppression are long; few are moved apart by torchvision, many are not."""
    generator = torch.Generator().manual_seed(num_boxes)
    corner = torch.rand(num_boxes, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + 40 * torch.rand(num_boxes, 2, generator=generator)], dim=1)
    scores = (torch.rand(num_boxes, generator=generator) * 50).round() / 50  # many are equal
    labels = torch.randint(0, 5, (num_boxes,), generator=generator)
    expected = ops.batched_nms(boxes, scores, labels, 0.5)
    if num_boxes == 0:
        assert len(expected) == len(apart(boxes, labels, labels, num_images=1)) == 0
        return
    groups, is_there = grouped(labels, scores, num_groups=7)
    moved = apart(boxes, labels, torch.zeros_like(labels), num_images=1)
    keep = groups[kept(moved[groups], is_there, iou_threshold=0.5)]
    assert 0 < len(keep) <= num_boxes
    assert keep.sort().values.tolist() == expected.sort().values.tolist()


def test_groups_too_large_to_be_compared_together_are_compared_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]]).float().expand(9, 3, 4)
    there = torch.ones(9, 3, dtype=torch.bool)
    monkeypatch.setitem(batched_nms._PAIRS, "cpu", 20)
    assert kept(boxes, there, iou_threshold=0.5).tolist() == [[True, False, True]] * 9

"""Faster R-CNN on a batch gives torchvision's boxes to the last bit, and suppresses as torchvision does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision import ops
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.transforms.functional import pil_to_tensor

from batchtag.models.acceleration import batched_nms
from batchtag.models.acceleration.batched_nms import group_boxes, nms_mask, offset_boxes
from batchtag.models.acceleration.batched_rcnn import BatchedRcnn, prepare_batch, supports_batched_rcnn
from batchtag.models.detector import batches_of_one_shape, padded_shape
from batchtag.models.torchvision.architectures import build_network, limit_arguments, untrained_arguments

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
BuildDetector = Callable[..., nn.Module]
Photos = list[Image.Image]


def run_both(network: Any, images: list[Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return our boxes and torchvision's for each image (3, H, W) uint8 of one call."""
    with torch.inference_mode():
        ours = BatchedRcnn(network)(images)
        theirs = network([image / 255 for image in images])
    return [(ours[ours[:, 6] == position], output) for position, output in enumerate(theirs)]


def assert_equal(ours: Tensor, theirs: dict[str, Tensor]) -> int:
    """Compare boxes to the last bit; return how many were compared.

    torchvision may sort boxes of equal score in any order, so their order is not compared. Nor are the boxes with the
    last score, because more of them may exist than the limit allows.
    """
    assert torch.equal(ours[:, 4], theirs["scores"])
    our_rows = ours[:, [4, 5, 0, 1, 2, 3]]
    their_rows = torch.cat([theirs["scores"][:, None], theirs["labels"][:, None].float(), theirs["boxes"]], dim=1)
    if not len(their_rows):
        return 0
    last_score = their_rows[:, 0].min()
    compared = [sorted(rows[rows[:, 0] > last_score].tolist()) for rows in (our_rows, their_rows)]
    assert compared[0] == compared[1]
    return len(compared[0])


def make_batches(network: Any, photos: Photos) -> list[list[Tensor]]:
    """Return five photographs and two mirror images of each, in batches of one padded shape."""
    tensors = [variant for photo in map(pil_to_tensor, photos[:5]) for variant in (photo, photo.flip(2), photo.flip(1))]
    shapes = [padded_shape(network.transform, *tensor.shape[1:]) for tensor in tensors]
    return [[tensors[i] for i in batch] for batch in batches_of_one_shape(shapes, 4)]


def test_a_batch_gets_exactly_torchvision_s_boxes(responsive_detector: BuildDetector, photos: Photos) -> None:
    network = responsive_detector(SMALL, box_score_thresh=0.05)
    batches = make_batches(network, photos)
    assert max(len(batch) for batch in batches) > 2
    num_compared = sum(assert_equal(*pair) for batch in batches for pair in run_both(network, batch))
    assert num_compared > 300


@pytest.mark.slow
def test_a_larger_network_with_many_proposals_gets_torchvision_s_boxes(
    responsive_detector: BuildDetector, photos: Photos
) -> None:
    """It has five levels of a thousand proposals each, and torchvision suppresses so many level by level."""
    network = responsive_detector("fasterrcnn_resnet50_fpn", box_score_thresh=0.1, min_size=256, max_size=400)
    batch = max(make_batches(network, photos), key=len)[:2]
    for ours, theirs in run_both(network, batch):
        assert assert_equal(ours, theirs) > 20


def test_a_network_that_keeps_every_class_of_every_proposal_gets_torchvision_s_boxes() -> None:
    arguments = untrained_arguments(SMALL, task="detect") | limit_arguments(SMALL, score_floor=0.0, max_tags=300)
    network = build_network(SMALL, arguments, seed=3)
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 60, 90), dtype=np.uint8)) for _ in range(2)]
    for ours, theirs in run_both(network, images):
        assert len(ours) == 300
        assert_equal(ours, theirs)


def test_images_without_boxes_are_handled_alone_and_beside_an_image_with_boxes(
    responsive_detector: BuildDetector, photos: Photos
) -> None:
    network: Any = copy.deepcopy(responsive_detector(SMALL, box_score_thresh=0.05))
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.weight.div_(10)  # otherwise both images get scores of 1
    network.roi_heads.score_thresh = 0.0
    photo = pil_to_tensor(photos[0])
    grey = torch.full_like(photo, 128)
    highest = [float(theirs["scores"].max()) for _, theirs in run_both(network, [grey, photo])]
    assert highest[0] != highest[1]
    network.roi_heads.score_thresh = sum(highest) / 2
    mixed = run_both(network, [grey, photo, grey])
    assert sorted(len(ours) > 0 for ours, _ in mixed) in ([False, True, True], [False, False, True])
    network.roi_heads.score_thresh = 1.0
    empty = run_both(network, [grey, photo])
    assert [len(ours) for ours, _ in empty] == [0, 0]
    for ours, theirs in mixed + empty:
        assert_equal(ours, theirs)


def test_networks_that_are_not_exactly_torchvision_s_faster_rcnn_are_not_supported() -> None:
    with torch.device("meta"):
        network: Any = build_network(SMALL, untrained_arguments(SMALL, task="detect"))
        assert supports_batched_rcnn(network)
        for other in ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "keypointrcnn_resnet50_fpn"):
            assert not supports_batched_rcnn(build_network(other, untrained_arguments(other, task="detect")))
    network.roi_heads.__class__ = type("Other", (type(network.roi_heads),), {})
    assert not supports_batched_rcnn(network)
    assert isinstance(network.roi_heads.box_predictor, FastRCNNPredictor)


def test_images_of_several_shapes_are_prepared_as_torchvision_prepares_them() -> None:
    transform = torchvision_models.detection.transform.GeneralizedRCNNTransform(
        200, 333, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    )
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for shape in [(90, 120), (91, 120), (90, 120)]]
    expected, _ = transform.eval()([image / 255 for image in images])
    batch, sizes = prepare_batch(transform, images)
    assert torch.equal(batch, expected.tensors)
    assert sizes == [tuple(size) for size in expected.image_sizes]
    same_shape, _ = prepare_batch(transform, images[::2])
    assert torch.equal(same_shape, batch[::2, :, : same_shape.shape[2]])


@pytest.mark.parametrize("num_boxes", [0, 1, 40, 700, 3000])
def test_all_groups_at_once_keep_the_boxes_that_torchvision_keeps(num_boxes: int) -> None:
    """The boxes are dense, so chains of suppression are long. torchvision offsets few boxes, but not many."""
    generator = torch.Generator().manual_seed(num_boxes)
    corner = torch.rand(num_boxes, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + 40 * torch.rand(num_boxes, 2, generator=generator)], dim=1)
    scores = (torch.rand(num_boxes, generator=generator) * 50).round() / 50  # many are equal
    labels = torch.randint(0, 5, (num_boxes,), generator=generator)
    expected = ops.batched_nms(boxes, scores, labels, 0.5)
    if num_boxes == 0:
        assert len(expected) == len(offset_boxes(boxes, labels, labels, num_images=1)) == 0
        return
    groups, is_present = group_boxes(labels, scores, num_groups=7)
    moved = offset_boxes(boxes, labels, torch.zeros_like(labels), num_images=1)
    keep = groups[nms_mask(moved[groups], is_present, iou_threshold=0.5)]
    assert 0 < len(keep) <= num_boxes
    assert keep.sort().values.tolist() == expected.sort().values.tolist()


def test_groups_with_too_many_pairs_are_compared_in_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]]).float().expand(9, 3, 4)
    is_present = torch.ones(9, 3, dtype=torch.bool)
    monkeypatch.setitem(batched_nms._MAX_PAIRS, "cpu", 20)
    assert nms_mask(boxes, is_present, iou_threshold=0.5).tolist() == [[True, False, True]] * 9

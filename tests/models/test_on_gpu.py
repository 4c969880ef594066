"""Predictions on a CUDA device equal those on the CPU, and images are uploaded completely. Skipped without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.demo.run import model_folder
from batchtag.demo.scenes import write_scenes
from batchtag.models import Runtime, load
from batchtag.models.acceleration.batched_nms import nms_mask
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from batchtag.training.trainable import make_trainable
from tests.models.agreement import count_confident, count_matches
from tests.support.alike import assert_alike

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
GPU = Runtime(device="cuda", precision="float32")


def skip_without(precision: str) -> None:
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")


def test_uploaded_images_are_unchanged_batch_after_batch(odd_images: list[Any]) -> None:
    device = torch.device("cuda")
    batches = [odd_images[:3], odd_images[3:], odd_images] * 20
    for batch, tensors in zip(batches, Uploads(device).upload_ahead(batches), strict=True):
        for image, tensor in zip(batch, tensors, strict=True):
            assert torch.equal(tensor, to_device(image, device))


def test_a_detector_on_a_gpu_finds_what_it_finds_on_the_cpu(
    responsive_detector: Callable[..., nn.Module], photos: list[Image.Image], tmp_path: Path
) -> None:
    network = responsive_detector(DETECTOR, box_score_thresh=0.05)
    content = CheckpointContent(
        architecture=DETECTOR,
        labels=["", *(f"thing {i}" for i in range(1, 91))],
        task="detect",
        preprocessing={},
        state_dict=network.state_dict(),
    )
    save_checkpoint(str(tmp_path / "net"), content)
    spec = CheckpointSpec(uri=str(tmp_path / "net"))
    images = [np.asarray(photo) for photo in photos]
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu = load(spec, runtime=GPU).predict(images)
    finally:
        torch.backends.cudnn.allow_tf32 = True
    for ours, expected in zip(on_gpu, load(spec).predict(images), strict=True):
        assert_alike(
            (ours.label_ids, ours.scores, ours.boxes_xyxy),
            (expected.label_ids, expected.scores, expected.boxes_xyxy),
        )


def test_a_classifier_on_a_gpu_gives_the_scores_of_the_cpu(photos: list[Image.Image]) -> None:
    spec = TorchvisionSpec(builder="resnet18", weights="none", score_floor=0.0)
    images = [np.asarray(photo) for photo in photos]
    for ours, expected in zip(load(spec, runtime=GPU).predict(images), load(spec).predict(images), strict=True):
        np.testing.assert_allclose(ours.scores, expected.scores, atol=0.005)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_detectors_and_classifiers_predict_in_16_bits(precision: Any, photos: list[Image.Image]) -> None:
    skip_without(precision)
    for builder in ("ssdlite320_mobilenet_v3_large", "resnet18"):
        spec = TorchvisionSpec(builder=builder, weights="none", score_floor=0.0)
        model = load(spec, runtime=Runtime(device="cuda", precision=precision))
        assert len(model.predict([np.asarray(photo) for photo in photos])) == len(photos)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_trained_detector_finds_what_it_finds_on_the_cpu_except_for_rounding(precision: Any, tmp_path: Path) -> None:
    skip_without(precision)
    write_scenes(tmp_path, num_images=12, seed=77)
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((tmp_path / "images").iterdir())]
    spec = CheckpointSpec(uri=model_folder("products"))
    exact = load(spec).predict(images)
    rounded = load(spec, runtime=Runtime(device="cuda", precision=precision)).predict(images)
    num_confident = sum(map(count_confident, exact))
    num_matches = sum(count_matches(a, b, pixels=0.5, score=0.01) for a, b in zip(exact, rounded, strict=True))
    assert num_matches >= (0.99 if precision == "float32" else 0.9) * num_confident > 100


def test_a_classifier_that_is_trained_on_a_gpu_predicts_there(tmp_path: Path) -> None:
    trainable = make_trainable("resnet18", task="classify", labels=["a", "b"])
    _, model = trainable.make_model(trainable.network.cuda(), device="cuda")
    assert len(model.predict([np.zeros((64, 80, 3), np.uint8)])) == 1


def test_suppression_on_a_gpu_keeps_what_it_keeps_on_the_cpu() -> None:
    corner = torch.rand(6, 500, 2, generator=torch.Generator().manual_seed(0)) * 60
    boxes = torch.cat([corner, corner + 30], dim=2)
    is_present = torch.ones(6, 500, dtype=torch.bool)
    expected = nms_mask(boxes, is_present, iou_threshold=0.5)
    assert torch.equal(nms_mask(boxes.cuda(), is_present.cuda(), iou_threshold=0.5).cpu(), expected)

"""On a CUDA device: the same answers as on the CPU, and images that arrive whole. Skipped where there is none."""

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
from batchtag.models.acceleration.batched_nms import kept
from batchtag.models.acceleration.transfer import Uploads, to_device
from batchtag.models.checkpoint.model import save_checkpoint
from batchtag.training.trainable import make_trainable
from tests.support.alike import assert_alike

from .test_precision import found_again

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
GPU = Runtime(device="cuda", precision="float32")


def test_images_arrive_as_they_left_batch_after_batch(odd_images: list[Any]) -> None:
    device = torch.device("cuda")
    batches = [odd_images[:3], odd_images[3:], odd_images] * 20
    for batch, there in zip(batches, Uploads(device).ahead(batches), strict=True):
        for image, arrived in zip(batch, there, strict=True):
            assert torch.equal(arrived, to_device(image, device))


def test_a_detector_on_a_gpu_finds_what_it_finds_on_the_cpu(
    awake_detector: Callable[..., nn.Module], photos: list[Image.Image], tmp_path: Any
) -> None:
    network = awake_detector(SMALL, box_score_thresh=0.05)
    save_checkpoint(
        str(tmp_path / "net"),
        architecture=SMALL,
        arguments={},
        labels=["", *(f"thing {i}" for i in range(1, 91))],
        task="detect",
        preprocessing={},
        state_dict=network.state_dict(),
    )
    spec = CheckpointSpec(uri=str(tmp_path / "net"))
    images = [np.asarray(photo) for photo in photos]
    torch.backends.cudnn.allow_tf32 = False
    try:
        on_gpu = load(spec, runtime=GPU).predict(images)
    finally:
        torch.backends.cudnn.allow_tf32 = True
    for one, other in zip(on_gpu, load(spec).predict(images), strict=True):
        said, expected = ((p.label_ids, p.scores, p.boxes_xyxy) for p in (one, other))
        assert_alike(said, expected)


def test_a_classifier_on_a_gpu_says_what_it_says_on_the_cpu(photos: list[Image.Image]) -> None:
    spec = TorchvisionSpec(builder="resnet18", weights="none", score_floor=0.0)
    images = [np.asarray(photo) for photo in photos]
    for one, other in zip(load(spec, runtime=GPU).predict(images), load(spec).predict(images), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=0.005)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_detectors_and_classifiers_look_in_16_bits(precision: Any, photos: list[Image.Image]) -> None:
    skip_without(precision)
    for builder in ("ssdlite320_mobilenet_v3_large", "resnet18"):
        spec = TorchvisionSpec(builder=builder, weights="none", score_floor=0.0)
        model = load(spec, runtime=Runtime(device="cuda", precision=precision))
        assert len(model.predict([np.asarray(photo) for photo in photos])) == len(photos)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_trained_detector_finds_what_it_finds_on_the_cpu_but_for_rounding(precision: Any, tmp_path: Path) -> None:
    skip_without(precision)
    write_scenes(tmp_path, num_images=12, seed=77)
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((tmp_path / "images").iterdir())]
    spec = CheckpointSpec(uri=model_folder("products"))
    exact, rounded = (
        load(spec, runtime=runtime).predict(images)
        for runtime in (Runtime(), Runtime(device="cuda", precision=precision))
    )
    sure = sum(int((one.scores >= 0.3).sum()) for one in exact)
    near = sum(found_again(one, other, 0.5, 0.01) for one, other in zip(exact, rounded, strict=True))
    assert near >= (0.99 if precision == "float32" else 0.9) * sure > 100


def test_a_classifier_that_is_being_trained_there_is_judged_there(tmp_path: Path) -> None:
    """It comes as it is trained, on the GPU."""
    trainable = make_trainable(
        "resnet18", arguments={}, labels=["a", "b"], task="classify", preprocessing={}, start=None, seed=0
    )
    _, model = trainable.as_model(trainable.network.cuda(), device="cuda")
    assert len(model.predict([np.zeros((64, 80, 3), np.uint8)])) == 1


def skip_without(precision: str) -> None:
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card has no bfloat16")


def test_suppression_on_a_gpu_keeps_what_it_keeps_on_the_cpu() -> None:
    corner = torch.rand(6, 500, 2, generator=torch.Generator().manual_seed(0)) * 60
    boxes = torch.cat([corner, corner + 30], dim=2)
    there = torch.ones(6, 500, dtype=torch.bool)
    expected = kept(boxes, there, iou_threshold=0.5)
    assert torch.equal(kept(boxes.cuda(), there.cuda(), iou_threshold=0.5).cpu(), expected)

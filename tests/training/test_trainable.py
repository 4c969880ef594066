"""Every builder can be trained, and its checkpoint predicts what the trained network predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models import load
from batchtag.tasks import Task
from batchtag.training.trainable import make_trainable

from .networks import LABELS, changed_tensors, copy_weights, make_small, save, train_one_step

QUICK = [("fasterrcnn_small_fpn", "detect"), ("resnet18", "classify"), ("ssdlite320_mobilenet_v3_large", "detect")]
"""A detector that resizes to any size, a classifier, and a detector with a fixed input size."""
CLASSIFIERS = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_32"),
]
"""One classifier of each family. VGG is left out: it has 130 million weights, and the layers of AlexNet."""
DETECTORS = [
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16"),
]
FAMILIES = [
    *QUICK,
    *(pytest.param(name, "classify", marks=pytest.mark.slow) for name in CLASSIFIERS),
    *(pytest.param(name, "detect", marks=pytest.mark.slow) for name in DETECTORS),
]


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(("builder", "task"), FAMILIES)
def test_a_network_is_trained_and_its_checkpoint_predicts_the_same(
    builder: str, task: Task, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    """Classifiers are saved as float16, which saves time."""
    trainable = make_small(builder, task)
    before = copy_weights(trainable)
    losses = train_one_step(trainable)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    assert changed_tensors(trainable, before)
    if task == "classify":
        trainable.network.half().float()
    info, model = trainable.make_model(trainable.network, device="cpu")
    save(trainable, tmp_path, half=task == "classify")
    stored = load(CheckpointSpec(uri=str(tmp_path), score_floor=0.05 if task == "detect" else 0.0, max_tags=100))
    assert stored.info.labels == info.labels
    ours, theirs = model.predict([image])[0], stored.predict([image])[0]
    np.testing.assert_array_equal(ours.label_ids, theirs.label_ids)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)


def test_a_mask_detector_is_trained_for_boxes_and_its_checkpoint_keeps_the_mask_heads(tmp_path: Path) -> None:
    trainable = make_small("maskrcnn_resnet50_fpn", "detect")
    assert not any("mask" in name for name in trainable.network.state_dict())
    save(trainable, tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert any("mask" in name for name in file.keys())  # noqa: SIM118 (not a mapping)


@pytest.mark.parametrize(
    ("builder", "task", "preprocessing", "message"),
    [
        ("resnet18", "detect", {}, "resnet18 is a classifier"),
        ("resnet81", "classify", {}, "no detection or classification builder is called 'resnet81'; did you mean"),
        (
            "ssd300_vgg16",
            "detect",
            {"min_size": 200},
            r"always resizes images to \(300, 300\) pixels; remove input",
        ),
        ("resnet18", "classify", {"crop_size": 64, "resize_size": 48}, "crop_size is 64 and input.resize_size is 48"),
        ("fcos_resnet50_fpn", "detect", {"min_size": 96, "max_size": 64}, "min_size is 96 and input.max_size is 64"),
    ],
)
def test_settings_that_contradict_the_builder_are_refused(
    builder: str, task: Task, preprocessing: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_small(builder, task, **preprocessing)


def test_arguments_that_the_builder_does_not_take_are_named() -> None:
    with pytest.raises(ModelError, match=r"resnet18 cannot be built with \{'wings': 2\}"):
        make_trainable("resnet18", task="classify", labels=LABELS, arguments={"wings": 2})


def test_the_seed_decides_the_random_weights() -> None:
    def first_weights(seed: int) -> Tensor:
        trainable = make_trainable("resnet18", task="classify", labels=LABELS, seed=seed)
        weights: Tensor = trainable.network.state_dict()["conv1.weight"]
        return weights

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))

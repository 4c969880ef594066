"""Networks in numbers of 16 bits: close to float32 within what the rounding makes, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from batchtag.cluster.machines import Machine
from batchtag.config.job import ComputeSpec
from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.demo.run import model_folder
from batchtag.demo.scenes import write_scenes
from batchtag.errors import UsageError
from batchtag.models import Runtime, load
from batchtag.models.acceleration.half_precision import (
    InFloat32,
    Reduced,
    check_for_overflow,
    number_type,
    reduce_classifier,
    reduce_detector,
    reduced,
)
from batchtag.models.acceleration.runtime import Precision, precision_on
from batchtag.models.torchvision.architectures import build, untrained_arguments
from batchtag.runs.placement import place
from batchtag.types import Prediction

LAPTOP, SERVER = [Machine(cpus=2, gpus=0)], [Machine(cpus=16, gpus=1)]
NOISE = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "builder",
    [
        "resnet18",
        "mobilenet_v3_small",
        "densenet121",
        "googlenet",
        "squeezenet1_1",
        "vit_b_16",
        "swin_t",
        "convnext_tiny",
    ],
)
def test_a_classifier_in_bfloat16_gives_the_same_logits_but_for_rounding(builder: str) -> None:
    network = build(builder, untrained_arguments(builder, task="classify"))
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == 1000:
            nn.init.normal_(module.weight, std=0.05, generator=torch.Generator().manual_seed(0))  # a ViT's begins at 0
    with torch.inference_mode():
        expected = network(NOISE)
        made = reduce_classifier(network, NOISE, torch.bfloat16, num_labels=1000)
        assert isinstance(made, Reduced)
        logits = made(NOISE)
    assert logits.dtype is torch.float32
    assert float((logits - expected).abs().max() / expected.abs().max()) < 0.03
    kept = [
        module for module in made.modules() for one in module.parameters(recurse=False) if one.dtype is torch.float32
    ]
    last = [module for module in made.modules() if isinstance(module, InFloat32)]
    assert len(last) == (0 if builder == "squeezenet1_1" else 1)
    assert {type(module) for module in kept} <= {nn.Linear, nn.BatchNorm2d}


TOLERANCES = [(0.5, 0.01), (2.0, 0.03)]
"""Pixels of the image, and score."""
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_a_trained_detector_in_bfloat16_finds_the_same_boxes_but_for_rounding(tmp_path: Path) -> None:
    """The demonstration's own. Seeded weights are chaotic, and say nothing of rounding."""
    write_scenes(tmp_path, num_images=12, seed=77)
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((tmp_path / "images").iterdir())]
    exact, rounded = (
        load(CheckpointSpec(uri=model_folder("products")), runtime=Runtime(batch_size=4, precision=precision)).predict(
            images
        )
        for precision in PRECISIONS
    )
    sure = sum(int((one.scores >= 0.3).sum()) for one in exact)
    assert sure > 100
    near = [sum(found_again(one, other, *by) for one, other in zip(exact, rounded, strict=True)) for by in TOLERANCES]
    assert near[0] >= 0.9 * sure
    assert near[1] >= 0.96 * sure


PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def found_again(exact: Prediction, rounded: Prediction, pixels: float, score: float) -> int:
    sure = exact.scores >= 0.3
    near = (
        (exact.label_ids[sure, None] == rounded.label_ids)
        & (np.abs(exact.scores[sure, None] - rounded.scores) <= score)
        & (np.abs(exact.boxes_xyxy[sure, None] - rounded.boxes_xyxy) <= pixels).all(axis=2)
    )
    return int(near.any(axis=1).sum())


@pytest.mark.parametrize("builder", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn_v2"])
def test_detectors_that_go_torchvision_s_way_compute_in_bfloat16_and_place_in_float32(builder: str) -> None:
    """Anchors of bfloat16 would lie up to four pixels beside themselves."""
    network: Any = build(builder, untrained_arguments(builder, task="detect") | SMALL_INPUT.get(builder, {}))
    image = torch.rand(3, 200, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        images, _ = network.transform([image])
        expected = network.head(list(network.backbone(images.tensors).values()))
        reduce_detector(network, torch.bfloat16)
        given = network.head(list(network.backbone(images.tensors).values()))
        features = network.backbone(images.tensors)
        anchors = network.anchor_generator(images, list(features.values()))
        network([image])
    assert {level.dtype for level in features.values()} == {torch.float32} == {one.dtype for one in anchors}
    for name, expected_one in expected.items():
        assert given[name].dtype is torch.float32
        assert 0 < float((given[name] - expected_one).abs().max() / expected_one.abs().max()) < 0.05


SMALL_INPUT: dict[str, dict[str, Any]] = {"retinanet_resnet50_fpn_v2": {"min_size": 128, "max_size": 192}}


class Exploding(nn.Module):
    """Sums that float16 cannot hold, for images that are bright enough."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 1e5).to(x.dtype)


def test_what_float16_cannot_hold_is_noticed_when_loading_and_when_looking(caplog: pytest.LogCaptureFixture) -> None:
    part = Exploding()
    assert reduced(part, torch.ones(2, 3), torch.float16) is part
    assert "stays in float32" in caplog.text
    made = reduced(part, torch.full((2, 3), 1e-3), torch.float16)
    assert isinstance(made, Reduced)
    made(torch.full((2, 3), 1e-2))
    check_for_overflow(made)
    made(torch.ones(2, 3))
    made(torch.full((2, 3), 1e-2))
    with pytest.raises(ValueError, match="no numbers for it in float16"):
        check_for_overflow(made)
    check_for_overflow(made)


def test_a_part_that_cannot_be_reduced_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class OnlyFloat32(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.inverse()  # there is no kernel for 16 bits

    part = OnlyFloat32()
    assert reduced(part, torch.eye(3), torch.bfloat16) is part
    assert "OnlyFloat32 stays in float32, not torch.bfloat16" in caplog.text


def test_cpus_compute_in_float32_unless_bfloat16_is_asked_for() -> None:
    assert number_type(Runtime()) is torch.float32
    assert number_type(Runtime(precision="bfloat16")) is torch.bfloat16
    assert load(TorchvisionSpec(builder="resnet18", weights="none"), runtime=Runtime(precision="bfloat16")).predict(
        [np.zeros((80, 90, 3), np.uint8)]
    )


def test_a_precision_that_cannot_be_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="'float16', which only GPUs compute in"):
        place(ComputeSpec(precision="float16"), LAPTOP)
    with pytest.raises(UsageError, match="'bfloat16', and OpenVINO computes in float32 here"):
        place(ComputeSpec(precision="bfloat16", engine="openvino"), LAPTOP)
    with pytest.raises(UsageError, match="only GPUs compute in"):
        number_type(Runtime(precision="float16"))


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_on_gpus_every_precision_is_placed_and_the_info_decides_in_the_worker(asked: Precision) -> None:
    placed = place(ComputeSpec(precision=asked), SERVER)
    assert (placed.device, placed.precision) == ("cuda", asked)
    assert precision_on("cuda:1", "torch", asked=asked) == asked


def test_bfloat16_on_a_laptop_is_torch_s_work() -> None:
    placed = place(ComputeSpec(precision="bfloat16", engine="torch"), LAPTOP)
    assert (placed.engine, placed.precision) == ("torch", "bfloat16")

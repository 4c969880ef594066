"""Networks in numbers of 16 bits: equal to float32 within rounding, and refused where a device does not have them."""

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
    Float32Linear,
    HalfPrecisionPart,
    check_for_overflow,
    reduce_classifier,
    reduce_detector,
    reduce_part,
    resolve_dtype,
)
from batchtag.models.acceleration.runtime import Precision, check_precision
from batchtag.models.torchvision.architectures import build_network, untrained_arguments
from batchtag.runs.placement import place_run
from tests.models.agreement import count_confident, count_matches

LAPTOP, SERVER = [Machine(cpus=2, gpus=0)], [Machine(cpus=16, gpus=1)]
NOISE = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
FAST_CLASSIFIERS = ["resnet18", "squeezenet1_1"]
"""One with a linear layer at its end, and one without."""
SLOW_CLASSIFIERS = ["mobilenet_v3_small", "densenet121", "googlenet", "vit_b_16", "swin_t", "convnext_tiny"]


@pytest.mark.parametrize(
    "builder", [*FAST_CLASSIFIERS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CLASSIFIERS)]
)
def test_a_classifier_in_bfloat16_gives_the_same_logits_except_for_rounding(builder: str) -> None:
    network = build_network(builder, untrained_arguments(builder, task="classify"))
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == 1000:
            # Without this, the last layer of an untrained vision transformer is 0.
            nn.init.normal_(module.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(NOISE)
        reduced = reduce_classifier(network, NOISE, torch.bfloat16, num_labels=1000)
        assert isinstance(reduced, HalfPrecisionPart)
        logits = reduced(NOISE)
    assert logits.dtype is torch.float32
    assert float((logits - expected).abs().max() / expected.abs().max()) < 0.03
    in_float32 = {
        type(module)
        for module in reduced.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.dtype is torch.float32
    }
    assert in_float32 <= {nn.Linear, nn.BatchNorm2d}
    num_last = sum(isinstance(module, Float32Linear) for module in reduced.modules())
    assert num_last == (0 if builder == "squeezenet1_1" else 1)


@pytest.mark.slow
def test_a_trained_detector_in_bfloat16_finds_the_same_boxes_except_for_rounding(tmp_path: Path) -> None:
    """The demo's own detector. Seeded weights amplify rounding, so they show nothing about it."""
    write_scenes(tmp_path, num_images=12, seed=77)
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((tmp_path / "images").iterdir())]
    spec = CheckpointSpec(uri=model_folder("products"))
    exact = load(spec, runtime=Runtime(batch_size=4)).predict(images)
    rounded = load(spec, runtime=Runtime(batch_size=4, precision="bfloat16")).predict(images)
    num_confident = sum(map(count_confident, exact))
    assert num_confident > 100
    for pixels, score, share in ((0.5, 0.01, 0.9), (2.0, 0.03, 0.96)):
        num_matches = sum(count_matches(a, b, pixels=pixels, score=score) for a, b in zip(exact, rounded, strict=True))
        assert num_matches >= share * num_confident


SMALL_INPUT: dict[str, dict[str, Any]] = {"retinanet_resnet50_fpn_v2": {"min_size": 128, "max_size": 192}}


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn_v2"])
def test_a_one_stage_detector_computes_in_bfloat16_and_has_its_anchors_in_float32(builder: str) -> None:
    """Anchors in bfloat16 would be up to four pixels away from their place."""
    network: Any = build_network(builder, untrained_arguments(builder, task="detect") | SMALL_INPUT.get(builder, {}))
    image = torch.rand(3, 200, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        images, _ = network.transform([image])
        expected = network.head(list(network.backbone(images.tensors).values()))
        reduce_detector(network, torch.bfloat16)
        outputs = network.head(list(network.backbone(images.tensors).values()))
        features = network.backbone(images.tensors)
        anchors = network.anchor_generator(images, list(features.values()))
        network([image])
    assert {level.dtype for level in features.values()} == {torch.float32}
    assert {boxes.dtype for boxes in anchors} == {torch.float32}
    for name, tensor in expected.items():
        assert outputs[name].dtype is torch.float32
        assert 0 < float((outputs[name] - tensor).abs().max() / tensor.abs().max()) < 0.05


class Exploding(nn.Module):
    """Multiplies so much that float16 overflows for bright images."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 1e5).to(x.dtype)


def test_an_overflow_in_float16_is_noticed_when_loading_and_when_predicting(caplog: pytest.LogCaptureFixture) -> None:
    part = Exploding()
    assert reduce_part(part, torch.ones(2, 3), torch.float16) is part
    assert "stays in float32" in caplog.text
    reduced = reduce_part(part, torch.full((2, 3), 1e-3), torch.float16)
    assert isinstance(reduced, HalfPrecisionPart)
    reduced(torch.full((2, 3), 1e-2))
    check_for_overflow(reduced)
    reduced(torch.ones(2, 3))
    reduced(torch.full((2, 3), 1e-2))
    with pytest.raises(ValueError, match="the model's outputs overflow in float16"):
        check_for_overflow(reduced)
    check_for_overflow(reduced)


def test_a_part_that_cannot_be_converted_stays_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    class OnlyFloat32(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.inverse()  # torch has no 16-bit kernel for it

    part = OnlyFloat32()
    assert reduce_part(part, torch.eye(3), torch.bfloat16) is part
    assert "OnlyFloat32 stays in float32, not torch.bfloat16" in caplog.text


def test_cpus_compute_in_float32_unless_the_job_asks_for_bfloat16() -> None:
    assert resolve_dtype(Runtime()) is torch.float32
    assert resolve_dtype(Runtime(precision="bfloat16")) is torch.bfloat16
    model = load(TorchvisionSpec(builder="resnet18", weights="none"), runtime=Runtime(precision="bfloat16"))
    assert model.predict([np.zeros((80, 90, 3), np.uint8)])


def test_a_precision_that_the_device_lacks_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="'float16', which only GPUs compute in"):
        place_run(ComputeSpec(precision="float16"), LAPTOP)
    with pytest.raises(UsageError, match="'bfloat16', but OpenVINO computes in float32 here"):
        place_run(ComputeSpec(precision="bfloat16", engine="openvino"), LAPTOP)
    with pytest.raises(UsageError, match="only GPUs compute in"):
        resolve_dtype(Runtime(precision="float16"))


@pytest.mark.parametrize("requested", ["float32", "bfloat16", "float16"])
def test_every_precision_is_placed_on_gpus_and_checked_by_the_worker(requested: Precision) -> None:
    placed = place_run(ComputeSpec(precision=requested), SERVER)
    assert (placed.device, placed.precision) == ("cuda", requested)
    assert check_precision("cuda:1", "torch", requested=requested) == requested


def test_bfloat16_on_a_laptop_is_computed_by_torch() -> None:
    placed = place_run(ComputeSpec(precision="bfloat16", engine="torch"), LAPTOP)
    assert (placed.engine, placed.precision) == ("torch", "bfloat16")

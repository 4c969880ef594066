from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.config.training import NetworkSpec
from batchtag.errors import ModelError
from batchtag.training.network import parse_start

from .networks import make_small, save, train_one_step


def test_all_weights_of_a_checkpoint_of_the_same_labels_are_loaded(tmp_path: Path) -> None:
    first = make_small("resnet18", "classify")
    train_one_step(first)
    save(first, tmp_path)
    second = make_small("resnet18", "classify", starting_model=CheckpointSpec(uri=str(tmp_path)))
    assert second.new_tensors == ()
    assert "fc.weight" in second.loaded_tensors
    source = first.network.state_dict()
    for name, tensor in second.network.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, source[name]), name


def test_all_weights_but_the_heads_are_loaded_from_a_checkpoint_of_other_labels(tmp_path: Path) -> None:
    save(make_small("resnet18", "classify"), tmp_path)
    starting_model = CheckpointSpec(uri=str(tmp_path))
    other = make_small("resnet18", "classify", starting_model=starting_model, labels=("cat", "dog"))
    assert other.new_tensors == ("fc.bias", "fc.weight")


def test_a_classifier_becomes_the_backbone_of_a_detector(tmp_path: Path) -> None:
    save(make_small("mobilenet_v3_large", "classify"), tmp_path)
    starting_model = CheckpointSpec(uri=str(tmp_path), task="classify")
    detector = make_small("fasterrcnn_mobilenet_v3_large_fpn", "detect", starting_model=starting_model)
    assert not [name for name in detector.new_tensors if name.startswith("backbone.body")]
    assert all(name.startswith("backbone.body") for name in detector.loaded_tensors)


def test_weights_that_do_not_fit_at_all_are_refused(tmp_path: Path) -> None:
    save(make_small("shufflenet_v2_x0_5", "classify"), tmp_path)
    with pytest.raises(ModelError, match=r"no tensor of .* fits squeezenet1_1: none has the same name and shape"):
        make_small("squeezenet1_1", "classify", starting_model=CheckpointSpec(uri=str(tmp_path)))


def test_batch_norms_with_eps_0_are_trained_and_saved_with_eps_0(tmp_path: Path) -> None:
    """As in the published Faster R-CNN COCO_V1, whose statistics were made with FrozenBatchNorm2d(eps=0)."""
    builder = "fasterrcnn_mobilenet_v3_large_320_fpn"
    first = make_small(builder, "detect")
    first.batch_norm_eps = 0.0
    save(first, tmp_path / "first")
    second = make_small(builder, "detect", starting_model=CheckpointSpec(uri=str(tmp_path / "first")))
    assert second.batch_norm_eps == 0.0
    assert {module.eps for module in second.network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.0}
    save(second, tmp_path / "second")
    assert '"batch_norm_eps": 0.0' in (tmp_path / "second" / "model.json").read_text()


def test_the_small_detector_has_no_published_weights_and_the_message_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"fasterrcnn_small_fpn has no published weights; set network.start to none"):
        make_small("fasterrcnn_small_fpn", "detect", starting_model=TorchvisionSpec(builder="fasterrcnn_small_fpn"))


def test_network_start_is_none_or_weights_or_a_checkpoint_or_another_builder() -> None:
    def parse(start: str) -> object:
        return parse_start(NetworkSpec(architecture="resnet18", start=start), task="classify")

    assert parse("none") is None
    assert parse("IMAGENET1K_V1") == TorchvisionSpec(builder="resnet18", weights="IMAGENET1K_V1", task="classify")
    assert parse("torchvision:resnet50@DEFAULT") == TorchvisionSpec(builder="resnet50", weights="DEFAULT")
    assert parse("s3://bucket/model") == CheckpointSpec(uri="s3://bucket/model", task="classify")

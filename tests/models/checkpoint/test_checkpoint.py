"""Checkpoints: a saved network is loaded unchanged, and an incomplete or damaged folder is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

from batchtag.config.model import CheckpointSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models import load, prepare
from batchtag.models.checkpoint.checkpoint_info import make_checkpoint_info
from batchtag.models.checkpoint.checkpoint_model import load_checkpoint_network
from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, record_results, save_checkpoint
from batchtag.models.checkpoint.model_file import DetectorFile, DetectorInput
from batchtag.models.torchvision.architectures import detector_resolution, untrained_arguments
from batchtag.models.torchvision.zoo import list_builders
from batchtag.models.torchvision.zoo_table import SMALL_FASTER_RCNN
from batchtag.storage import open_store

LABELS = ["cat", "dog", "bird"]
INPUT = {"resize_size": 72, "crop_size": 64, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    small: nn.Module = torchvision_models.squeezenet1_1(weights=None, num_classes=3).eval()
    return small


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def save(folder: str | Path, network: nn.Module, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "architecture": "squeezenet1_1",
        "arguments": {},
        "labels": LABELS,
        "task": "classify",
        "preprocessing": INPUT,
        "state_dict": network.state_dict(),
    }
    return save_checkpoint(str(folder), CheckpointContent(**(arguments | changes)))


def edit_model_file(folder: Path, **changes: Any) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_loaded_classifier_gives_the_scores_of_the_saved_network(
    tmp_path: Path, network: nn.Module, image: NDArray[np.uint8]
) -> None:
    from torchvision.transforms._presets import ImageClassification

    save(tmp_path / "kinds", network)
    spec = CheckpointSpec(uri=str(tmp_path / "kinds"), score_floor=0.0)
    prediction = load(spec).predict([image])[0]
    transforms = ImageClassification(crop_size=64, resize_size=72, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with torch.inference_mode():
        expected = network(transforms(torch.from_numpy(image).permute(2, 0, 1))[None]).softmax(1)[0]
    np.testing.assert_allclose(prediction.scores, expected[prediction.label_ids.tolist()].numpy(), atol=0.005)
    assert prepare(spec).labels == tuple(LABELS)
    assert prepare(spec).name == "kinds"
    assert prepare(spec).input_resolution.shorter_px == 72


def test_a_detector_keeps_its_input_size_and_gets_its_limits_from_the_job(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    builder = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    network = torchvision_models.get_model(builder, weights=None, weights_backbone=None, num_classes=2)
    save(
        tmp_path,
        network,
        architecture=builder,
        arguments={"rpn_post_nms_top_n_test": 50},
        labels=["__background__", "crate"],
        task="detect",
        preprocessing={"min_size": 160, "max_size": 256},
    )
    spec = CheckpointSpec(uri=str(tmp_path), score_floor=0.0, max_tags=7)
    info = prepare(spec)
    assert (info.input_resolution.mode, info.input_resolution.shorter_px, info.input_resolution.longer_px) == (
        "fit",
        160,
        256,
    )
    assert info.labels == ("", "crate")
    assert len(load(spec).predict([image])[0].scores) == 7


FAST = ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", SMALL_FASTER_RCNN]
ARCHITECTURES = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in (*list_builders("detect"), SMALL_FASTER_RCNN)
]


@pytest.mark.parametrize("sizes", [{}, {"min_size": 200, "max_size": 500}], ids=["builder's sizes", "own sizes"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_input_resolution_of_a_detector_is_that_of_the_built_network(
    architecture: str, sizes: dict[str, Any]
) -> None:
    """The model info is made without building the network."""
    if architecture.startswith("ssd"):
        sizes = {}  # they have one input size
    model_file = DetectorFile(
        architecture=architecture,
        labels=["__background__", "crate"],
        preprocessing=DetectorInput(**sizes),
        weights_sha256="0" * 64,
    )
    arguments = untrained_arguments(architecture, task="detect") | {"num_classes": 2} | sizes
    info = make_checkpoint_info(CheckpointSpec(uri="/absent"), model_file)
    assert info.input_resolution == detector_resolution(architecture, arguments)[0]


@pytest.mark.parametrize(
    "arguments", [{"fixed_size": [1500, 900]}, {"min_size": [200, 300]}, {"max_size": 700}], ids=str
)
def test_arguments_that_change_the_input_size_also_change_the_model_info(arguments: dict[str, Any]) -> None:
    model_file = DetectorFile(
        architecture="fasterrcnn_resnet50_fpn",
        arguments=arguments,
        labels=["__background__", "crate"],
        preprocessing=DetectorInput(),
        weights_sha256="0" * 64,
    )
    all_arguments = untrained_arguments(model_file.architecture, task="detect") | {"num_classes": 2} | arguments
    info = make_checkpoint_info(CheckpointSpec(uri="/absent"), model_file)
    assert info.input_resolution == detector_resolution(model_file.architecture, all_arguments)[0]


def test_weights_stored_in_float16_are_computed_in_float32(
    tmp_path: Path, network: nn.Module, image: NDArray[np.uint8]
) -> None:
    save(tmp_path / "full", network)
    save(tmp_path / "half", network, state_dict={name: tensor.half() for name, tensor in network.state_dict().items()})
    full, half = (
        load(CheckpointSpec(uri=str(tmp_path / name), score_floor=0.0)).predict([image])[0] for name in ("full", "half")
    )
    assert half.scores.dtype == np.float32
    np.testing.assert_allclose(half.scores, full.scores, atol=0.005)
    assert (tmp_path / "half/weights.safetensors").stat().st_size < 0.6 * (
        tmp_path / "full/weights.safetensors"
    ).stat().st_size


def test_the_eps_of_batch_norms_is_saved_with_the_weights(tmp_path: Path) -> None:
    """torchvision runs its first COCO detectors with eps 0.0, which is not in the state dict; fine-tuning keeps it."""
    network = torchvision_models.resnet18(weights=None, num_classes=3, norm_layer=FrozenBatchNorm2d)
    save(tmp_path, network, architecture="resnet18", batch_norm_eps=0.0)
    loaded = load_checkpoint_network(CheckpointSpec(uri=str(tmp_path)))
    assert {module.eps for module in loaded.modules() if isinstance(module, nn.BatchNorm2d)} == {0.0}


def test_labels_change_the_digest_but_metrics_and_notes_do_not(tmp_path: Path, network: nn.Module) -> None:
    digest = save(tmp_path / "a", network)
    assert save(tmp_path / "b", network, metrics={"acc@1": 71.5}, extra={"epochs": 3, "by": "me"}) == digest
    assert save(tmp_path / "c", network, labels=["cat", "dog", "fish"]) != digest
    assert json.loads((tmp_path / "b/model.json").read_text())["metrics"] == {"acc@1": 71.5}


def test_results_of_an_evaluation_are_recorded_without_changing_weights_or_digest(
    tmp_path: Path, network: nn.Module
) -> None:
    digest = save(tmp_path / "a", network, metrics={"acc@1": 0.5}, extra={"by": "me"}, thresholds={"cat": 0.3})
    before = prepare(CheckpointSpec(uri=str(tmp_path / "a")))
    weights = (tmp_path / "a/weights.safetensors").read_bytes()
    record_results(str(tmp_path / "a"), metrics={"accuracy": 0.75, "auc": float("nan")}, thresholds={"dog": 0.9})
    after = prepare(CheckpointSpec(uri=str(tmp_path / "a")))
    content = json.loads((tmp_path / "a/model.json").read_text())
    assert (content["digest"], content["metrics"], content["extra"]) == (digest, {"accuracy": 0.75}, {"by": "me"})
    assert (before.thresholds, after.thresholds) == ((("cat", 0.3),), (("dog", 0.9),))
    assert before.digest == after.digest == prepare(CheckpointSpec(uri=str(tmp_path / "a"))).digest
    assert (tmp_path / "a/weights.safetensors").read_bytes() == weights
    record_results(str(tmp_path / "a"), extra={})
    assert prepare(CheckpointSpec(uri=str(tmp_path / "a"))).thresholds == after.thresholds


def test_an_old_checkpoint_without_thresholds_can_be_loaded(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path, network)
    content = json.loads((tmp_path / "model.json").read_text())
    del content["thresholds"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert prepare(CheckpointSpec(uri=str(tmp_path))).thresholds == ()


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (
            {"cow": 0.5, "ox": 0.5},
            r"thresholds has 'cow', which is not one of its labels \('bird', .*; thresholds has 'ox'",
        ),
        ({"cat": 1.5}, r"thresholds\.cat: Input should be less than or equal to 1"),
        ({"cat": float("nan")}, r"thresholds\.cat: "),
    ],
)
def test_invalid_thresholds_are_refused_and_nothing_is_written(
    tmp_path: Path, network: nn.Module, thresholds: dict[str, float], message: str
) -> None:
    save(tmp_path, network)
    before = (tmp_path / "model.json").read_bytes()
    with pytest.raises(ModelError, match=message):
        record_results(str(tmp_path), thresholds=thresholds)
    with pytest.raises(ModelError, match=message):
        save(tmp_path / "new", network, thresholds=thresholds)
    assert (tmp_path / "model.json").read_bytes() == before


def test_results_cannot_be_recorded_in_a_folder_that_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a checkpoint that can be read"):
        record_results(str(tmp_path), metrics={})


def test_the_weights_of_a_remote_checkpoint_are_fetched_once(network: nn.Module) -> None:
    uri = "memory://checkpoints/kinds"
    save(uri, network)
    spec = CheckpointSpec(uri=uri)
    info = prepare(spec)
    open_store(uri).delete(f"{uri}/weights.safetensors")
    assert load(spec).info == info


def test_weights_of_another_checkpoint_are_refused(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path / "a", network)
    save(tmp_path / "b", torchvision_models.squeezenet1_1(weights=None, num_classes=3))
    (tmp_path / "a/weights.safetensors").write_bytes((tmp_path / "b/weights.safetensors").read_bytes())
    with pytest.raises(
        ModelError,
        match=r"a/weights.safetensors has sha256 \w+\.\.\., model.json says \w+\.\.\.; the checkpoint is damaged or",
    ):
        prepare(CheckpointSpec(uri=str(tmp_path / "a")))


def test_a_model_file_that_was_edited_is_refused(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path, network)
    edit_model_file(tmp_path, labels=["dog", "cat", "bird"])
    with pytest.raises(ModelError, match=r"model.json: its content has digest \w{12}, but it says \w{12}"):
        prepare(CheckpointSpec(uri=str(tmp_path)))


def test_every_mistake_in_a_model_file_is_reported_at_once(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path, network)
    edit_model_file(tmp_path, labels=[], weights_sha256="x", surprise=1)
    with pytest.raises(ModelError, match=r"labels: .*; .*weights_sha256: .*; .*surprise: "):
        prepare(CheckpointSpec(uri=str(tmp_path)))


def test_a_folder_without_a_model_file_is_refused_with_an_explanation_of_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"is not a checkpoint that can be read: .*a folder with model.json and weights"
    ):
        prepare(CheckpointSpec(uri=str(tmp_path)))


def test_a_folder_without_weights_is_refused_with_the_name_of_the_missing_file(
    tmp_path: Path, network: nn.Module
) -> None:
    save(tmp_path, network)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights.safetensors: the weights of the checkpoint cannot be read"):
        prepare(CheckpointSpec(uri=str(tmp_path)))


def test_a_model_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(b"\x80\x04 a pickle?")
    with pytest.raises(ModelError, match=r"model.json: is not JSON"):
        prepare(CheckpointSpec(uri=str(tmp_path)))


def test_a_checkpoint_of_a_classifier_is_refused_as_a_detector(tmp_path: Path, network: nn.Module) -> None:
    save(tmp_path, network)
    with pytest.raises(UsageError, match="is a classifier, but the job asks for a detector"):
        prepare(CheckpointSpec(uri=str(tmp_path), task="detect"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "squeezenet9"}, "did you mean 'squeezenet1_"),
        ({"task": "detect", "preprocessing": {}}, "task is 'detect', but squeezenet1_1 can only classify"),
        ({"arguments": {"weights": "DEFAULT"}}, "arguments.weights must be left out"),
        ({"arguments": {"colour": "red"}}, "squeezenet1_1 cannot be built as described: .*colour"),
        ({"labels": ["cat", "dog"]}, "these are not the weights of this architecture: .*classifier"),
        ({"preprocessing": {}}, "resize_size: Field required; .*crop_size"),
        (
            {"architecture": "ssd300_vgg16", "task": "detect", "preprocessing": {}},
            r"labels\[0\] is 'cat'; label 0 of a detector must be its background",
        ),
    ],
)
def test_a_checkpoint_that_could_not_be_loaded_again_is_not_saved(
    tmp_path: Path, network: nn.Module, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        save(tmp_path / "never", network, **changes)
    assert not (tmp_path / "never").exists()

"""Every builder can be trained, and what was trained is what the line then runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchtag.config.model import CheckpointSpec, TorchvisionSpec
from batchtag.errors import ModelError, UsageError
from batchtag.models import load
from batchtag.models.torchvision import architectures, zoo
from batchtag.tasks import Task
from batchtag.training.trainable import Trainable, backbone_stages, freeze, make_trainable, training_mode

LABELS = ("cup", "plate", "spoon")
SMALLEST = {"inception_v3": 299, "maxvit_t": 224, "googlenet": 64, "alexnet": 64, "squeezenet1_1": 64}
CLASSIFIERS = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vit_b_32"),
]
"""One of each family; of VGG none, whose 130 million weights AlexNet's kind has too. Saved as float16, to save time."""
DETECTORS = [
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_small_fpn"),
    *("fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
    *("ssd300_vgg16", "ssdlite320_mobilenet_v3_large"),
]


def made_of(builder: str, task: Task, *, start: Any = None, labels: tuple[str, ...] = LABELS, **said: Any) -> Trainable:
    """As small an input as the builder takes."""
    if task == "classify":
        said.setdefault("crop_size", SMALLEST.get(builder, 32))
    elif not builder.startswith("ssd"):
        said.setdefault("min_size", 64)
        said.setdefault("max_size", 96)
    return make_trainable(builder, arguments={}, labels=labels, task=task, preprocessing=said, start=start, seed=0)


def batch_of(made: Trainable) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    dice = torch.Generator().manual_seed(0)
    if made.task == "classify":
        side = made.preprocessing["crop_size"]
        pixels = [torch.randint(256, (3, side, side), dtype=torch.uint8, generator=dice) for _ in range(2)]
        return pixels, [{"label": torch.tensor(label)} for label in (0, 2)]
    pixels = [torch.randint(256, (3, 64, 80), dtype=torch.uint8, generator=dice) for _ in range(2)]
    found = {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([3])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return pixels, [found, nothing]


def train_a_step(made: Trainable, *, stages: int = 0, batch_norm: bool = False) -> dict[str, Tensor]:
    freeze(made.network, stages=stages, batch_norm=batch_norm)
    training_mode(made.network, stages=stages, batch_norm=batch_norm)
    trained = [tensor for tensor in made.network.parameters() if tensor.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4)
    pixels, targets = batch_of(made)
    losses = made.losses(made.network, pixels, targets, label_smoothing=0.1)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    made.network.eval()
    return losses


def save(made: Trainable, folder: Path, *, half: bool = False) -> str:
    return made.save(str(folder), made.network.state_dict(), half=half, metrics={}, thresholds={}, extra={})


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("builder", "task"), [(name, "classify") for name in CLASSIFIERS] + [(name, "detect") for name in DETECTORS]
)
def test_a_network_of_each_family_takes_a_step_and_comes_back_from_its_checkpoint(
    builder: str, task: Task, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    made = made_of(builder, task)
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    losses = train_a_step(made)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    after = made.network.state_dict()
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    if made.task == "classify":
        made.network.half().float()
    info, model = made.as_model(made.network, device="cpu")
    save(made, tmp_path, half=made.task == "classify")
    spec = CheckpointSpec(uri=str(tmp_path), score_floor=0.05 if task == "detect" else 0.0, max_tags=100)
    back = load(spec)
    assert back.info.labels == info.labels
    ours, theirs = model.predict([image])[0], back.predict([image])[0]
    np.testing.assert_array_equal(ours.label_ids, theirs.label_ids)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)


def every_builder() -> list[tuple[str, Task]]:
    named: list[tuple[str, Task]] = [(name, "detect") for name in zoo.builders("detect")]
    named += [(name, "classify") for name in zoo.builders("classify")]
    # RegNet computes its widths with tensors, which the meta device cannot; its smallest is built above.
    return [(name, task) for name, task in named if not name.startswith("regnet")]


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_every_builder_can_be_built_for_other_labels_and_has_stages_to_freeze(task: Task) -> None:
    with torch.device("meta"):
        for name in [name for name, kind in every_builder() if kind == task]:
            arguments = architectures.untrained_arguments(name, task=task) | {"num_classes": 4}
            network = architectures.build(name, arguments)
            stages = backbone_stages(network)
            assert len(stages) > 1, name
            assert all(next(stage.parameters(), None) is not None for stage in stages), name
            freeze(network, stages=1, batch_norm=False)
            assert not any(tensor.requires_grad for tensor in stages[0].parameters()), name
            assert all(tensor.requires_grad for tensor in stages[-1].parameters()), name


def test_frozen_stages_keep_their_weights_and_their_statistics() -> None:
    made = made_of("resnet18", "classify")
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    train_a_step(made, stages=2)
    changed = {name for name, tensor in made.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not {name for name in changed if name.startswith(("conv1", "bn1", "layer1"))}
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "fc.weight"} <= changed


def test_frozen_batch_norms_keep_their_scales_and_their_statistics() -> None:
    made = made_of("resnet18", "classify")
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    train_a_step(made, batch_norm=True)
    changed = {name for name, tensor in made.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not {name for name in changed if "bn" in name or "downsample.1" in name}
    assert {"conv1.weight", "fc.weight"} <= changed


def test_a_detector_of_masks_is_trained_for_boxes_and_keeps_the_rest_for_its_builder(tmp_path: Path) -> None:
    made = made_of("maskrcnn_resnet50_fpn", "detect")
    assert not any("mask" in name for name in made.network.state_dict())
    save(made, tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert any("mask" in name for name in file.keys())  # noqa: SIM118 (no mapping)


def test_training_goes_on_from_a_checkpoint_with_all_of_its_weights(tmp_path: Path) -> None:
    first = made_of("resnet18", "classify")
    train_a_step(first)
    save(first, tmp_path)
    again = made_of("resnet18", "classify", start=CheckpointSpec(uri=str(tmp_path)))
    assert again.left == ()
    assert "fc.weight" in again.taken
    theirs = first.network.state_dict()
    for name, tensor in again.network.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, theirs[name]), name


def test_from_a_checkpoint_of_other_labels_all_but_the_head_is_taken(tmp_path: Path) -> None:
    save(made_of("resnet18", "classify"), tmp_path)
    other = made_of("resnet18", "classify", start=CheckpointSpec(uri=str(tmp_path)), labels=("cat", "dog"))
    assert other.left == ("fc.bias", "fc.weight")


def test_a_classifier_becomes_the_backbone_of_a_detector(tmp_path: Path) -> None:
    builder = "mobilenet_v3_large"
    save(made_of(builder, "classify"), tmp_path)
    detector = made_of(
        "fasterrcnn_mobilenet_v3_large_fpn", "detect", start=CheckpointSpec(uri=str(tmp_path), task="classify")
    )
    assert {name for name in detector.left if name.startswith("backbone.body")} == set()
    assert all(name.startswith("backbone.body") for name in detector.taken)


def test_weights_of_which_nothing_fits_are_refused(tmp_path: Path) -> None:
    save(made_of("shufflenet_v2_x0_5", "classify"), tmp_path)
    with pytest.raises(ModelError, match=r"nothing of .* fits squeezenet1_1: no tensor has its name and shape"):
        made_of("squeezenet1_1", "classify", start=CheckpointSpec(uri=str(tmp_path)))


def test_published_weights_of_eps_0_are_trained_and_saved_with_eps_0(tmp_path: Path) -> None:
    """As Faster R-CNN's COCO_V1: its statistics were made for FrozenBatchNorm2d(eps=0)."""
    first = made_of("fasterrcnn_mobilenet_v3_large_320_fpn", "detect")
    first.batch_norm_eps = 0.0
    save(first, tmp_path / "first")
    made = made_of("fasterrcnn_mobilenet_v3_large_320_fpn", "detect", start=CheckpointSpec(uri=str(tmp_path / "first")))
    assert made.batch_norm_eps == 0.0
    assert {module.eps for module in made.network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.0}
    save(made, tmp_path / "second")
    assert '"batch_norm_eps": 0.0' in (tmp_path / "second" / "model.json").read_text()


def test_the_small_detector_has_no_published_weights_and_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="fasterrcnn_small_fpn has no published weights"):
        made_of("fasterrcnn_small_fpn", "detect", start=TorchvisionSpec(builder="fasterrcnn_small_fpn"))


@pytest.mark.parametrize(
    ("builder", "task", "said", "message"),
    [
        ("resnet18", "detect", {}, "resnet18 is a classifier"),
        ("resnet81", "classify", {}, "there is no detection or classification builder 'resnet81'; did you mean"),
        ("ssd300_vgg16", "detect", {"min_size": 200}, r"ssd300_vgg16 looks at \(300, 300\) pixels always"),
        ("resnet18", "classify", {"crop_size": 64, "resize_size": 48}, "crop_size is 64 and input.resize_size 48"),
        ("fcos_resnet50_fpn", "detect", {"min_size": 96, "max_size": 64}, "min_size is 96 and input.max_size 64"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(builder: str, task: Task, said: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made_of(builder, task, **said)


def test_arguments_that_a_builder_does_not_take_are_told() -> None:
    with pytest.raises(ModelError, match=r"resnet18 cannot be built with \{'wings': 2\}"):
        make_trainable(
            "resnet18", arguments={"wings": 2}, labels=LABELS, task="classify", preprocessing={}, start=None, seed=0
        )


def test_the_seed_decides_the_first_weights() -> None:
    def weights(seed: int) -> Tensor:
        made = make_trainable(
            "resnet18", arguments={}, labels=LABELS, task="classify", preprocessing={}, start=None, seed=seed
        )
        first: Tensor = made.network.state_dict()["conv1.weight"]
        return first

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))

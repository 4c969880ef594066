"""Networks with inputs as small as their builders allow, and one step of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from batchtag.tasks import Task
from batchtag.training.freezing import freeze_layers, set_training_mode
from batchtag.training.trainable import Trainable, make_trainable

LABELS = ("cup", "plate", "spoon")
_SMALLEST_CROP_PX = {"inception_v3": 299, "maxvit_t": 224, "googlenet": 64, "alexnet": 64, "squeezenet1_1": 64}


def make_small(
    builder: str, task: Task, *, starting_model: Any = None, labels: tuple[str, ...] = LABELS, **preprocessing: Any
) -> Trainable:
    """Make a network with an input as small as the builder allows."""
    if task == "classify":
        preprocessing.setdefault("crop_size", _SMALLEST_CROP_PX.get(builder, 32))
    elif not builder.startswith("ssd"):
        preprocessing.setdefault("min_size", 64)
        preprocessing.setdefault("max_size", 96)
    return make_trainable(builder, task=task, labels=labels, preprocessing=preprocessing, starting_model=starting_model)


def train_one_step(trainable: Trainable, *, num_stages: int = 0, batch_norms: bool = False) -> dict[str, Tensor]:
    """Update the weights by one batch of two random images, and return the losses."""
    freeze_layers(trainable.network, num_stages=num_stages, batch_norms=batch_norms)
    set_training_mode(trainable.network, num_stages=num_stages, batch_norms=batch_norms)
    parameters = [tensor for tensor in trainable.network.parameters() if tensor.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4)
    pixels, targets = _make_batch(trainable)
    losses = trainable.compute_losses(trainable.network, pixels, targets, label_smoothing=0.1)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    trainable.network.eval()
    return losses


def _make_batch(trainable: Trainable) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    dice = torch.Generator().manual_seed(0)
    if trainable.task == "classify":
        side = trainable.preprocessing["crop_size"]
        pixels = [torch.randint(256, (3, side, side), dtype=torch.uint8, generator=dice) for _ in range(2)]
        return pixels, [{"label": torch.tensor(label)} for label in (0, 2)]
    pixels = [torch.randint(256, (3, 64, 80), dtype=torch.uint8, generator=dice) for _ in range(2)]
    one_object = {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([3])}
    no_object = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return pixels, [one_object, no_object]


def copy_weights(trainable: Trainable) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainable.network.state_dict().items()}


def changed_tensors(trainable: Trainable, before: dict[str, Tensor]) -> set[str]:
    return {n for n, tensor in trainable.network.state_dict().items() if not torch.equal(tensor, before[n])}


def save(trainable: Trainable, folder: Path, *, half: bool = False) -> str:
    tensors = trainable.network.state_dict()
    return trainable.save(str(folder), tensors, half=half, metrics={}, thresholds={}, extra={})

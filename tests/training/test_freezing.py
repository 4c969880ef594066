from __future__ import annotations

import pytest
import torch

from batchtag.models.torchvision import architectures, zoo
from batchtag.tasks import Task
from batchtag.training.freezing import backbone_stages, freeze_layers

from .networks import changed_tensors, copy_weights, make_small, train_one_step


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "classify"])
def test_every_builder_has_stages_that_can_be_frozen(task: Task) -> None:
    # RegNet computes its widths with tensors, which the meta device cannot; test_trainable builds the smallest.
    names = [name for name in zoo.list_builders(task) if not name.startswith("regnet")]
    with torch.device("meta"):
        for name in names:
            arguments = architectures.untrained_arguments(name, task=task) | {"num_classes": 4}
            network = architectures.build_network(name, arguments)
            stages = backbone_stages(network)
            assert len(stages) > 1, name
            assert all(next(stage.parameters(), None) is not None for stage in stages), name
            freeze_layers(network, num_stages=1, batch_norms=False)
            assert not any(tensor.requires_grad for tensor in stages[0].parameters()), name
            assert all(tensor.requires_grad for tensor in stages[-1].parameters()), name


def test_frozen_stages_keep_their_weights_and_their_statistics() -> None:
    trainable = make_small("resnet18", "classify")
    before = copy_weights(trainable)
    train_one_step(trainable, num_stages=2)
    changed = changed_tensors(trainable, before)
    assert not {name for name in changed if name.startswith(("conv1", "bn1", "layer1"))}
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "fc.weight"} <= changed


def test_frozen_batch_norms_keep_their_scales_and_their_statistics() -> None:
    trainable = make_small("resnet18", "classify")
    before = copy_weights(trainable)
    train_one_step(trainable, batch_norms=True)
    changed = changed_tensors(trainable, before)
    assert not {name for name in changed if "bn" in name or "downsample.1" in name}
    assert {"conv1.weight", "fc.weight"} <= changed

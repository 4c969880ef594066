from __future__ import annotations

import pytest
import torch
from torch import nn

from batchtag.config.training import ScheduleSpec
from batchtag.training.optim import learning_rate, make_optimizer, update_average
from batchtag.training.state import fill_optimizer, optimizer_tensors


def test_the_learning_rate_warms_up_and_then_follows_half_a_cosine_to_zero() -> None:
    spec = ScheduleSpec(epochs=11, learning_rate=0.1, warmup_epochs=1)
    rates = [learning_rate(step, spec=spec, steps_per_epoch=10) for step in range(111)]
    assert rates[0] == pytest.approx(0.1 / 11)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.05)
    assert rates[110] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_decay_the_learning_rate_is_constant() -> None:
    spec = ScheduleSpec(epochs=3, learning_rate=0.1, warmup_epochs=0, decay="none")
    assert {learning_rate(step, spec=spec, steps_per_epoch=5) for step in range(15)} == {0.1}


def test_biases_and_norms_get_no_weight_decay_and_frozen_tensors_are_left_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    network[2].requires_grad_(False)
    decaying, others = make_optimizer(network, ScheduleSpec(weight_decay=0.3)).param_groups
    assert [tensor.ndim for tensor in decaying["params"]] == [4]
    assert [tensor.ndim for tensor in others["params"]] == [1, 1, 1]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0.0)


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    average, network = nn.Linear(1, 1), nn.Linear(1, 1)
    for module, value in ((average, 0.0), (network, 1.0)):
        nn.init.constant_(module.weight, value)
    update_average(average, network, step=0, ema=0.9)
    assert float(average.weight.detach()) == pytest.approx(0.9)  # keeps 1/10 of the old average
    nn.init.constant_(average.weight, 0.0)
    update_average(average, network, step=10_000, ema=0.9)
    assert float(average.weight.detach()) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimiser_that_is_restored_from_its_tensors_continues_unchanged(name: str) -> None:
    def make_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    spec = ScheduleSpec(optimizer=name)  # type: ignore[arg-type]
    network, restored_network = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = make_optimizer(network, spec)
    make_step(network, optimizer)
    restored_network.load_state_dict(network.state_dict())
    restored = make_optimizer(restored_network, spec)
    fill_optimizer(restored, optimizer_tensors(optimizer))
    make_step(network, optimizer)
    make_step(restored_network, restored)
    assert torch.equal(network.weight, restored_network.weight)

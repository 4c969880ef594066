"""The optimiser, the learning rate at every step, and the average of the weights. Knows nothing of images."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from batchtag.config.training import ScheduleSpec


def make_optimizer(network: nn.Module, spec: ScheduleSpec) -> Optimizer:
    """Make the optimiser of the parameters that are not frozen.

    Biases and the scales of norms get no weight decay (He et al. 2019, Bag of Tricks).
    """
    parameters = [tensor for tensor in network.parameters() if tensor.requires_grad]
    groups = [
        {"params": [tensor for tensor in parameters if tensor.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [tensor for tensor in parameters if tensor.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.optimizer == "adamw":
        return AdamW(groups, lr=spec.learning_rate)
    return SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, nesterov=spec.momentum > 0)


def learning_rate(step: int, *, spec: ScheduleSpec, steps_per_epoch: int) -> float:
    """Return the learning rate of a step; steps count from 0 over the whole training.

    A linear warm-up, then half a cosine down to 0 (Loshchilov & Hutter 2017, SGDR).
    """
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.learning_rate * (step + 1) / (warmup + 1)
    if spec.decay == "none":
        return spec.learning_rate
    total = max(1, spec.epochs * steps_per_epoch - warmup)
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / total)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, step: int, ema: float) -> None:
    """Update `average`, the exponential moving average of the weights, with those of `network`, in place.

    The share of the old average that is kept is `ema`, but (1 + step) / (10 + step) in early steps, as in TensorFlow's
    ExponentialMovingAverage; otherwise the random start would dominate a short training.
    """
    keep = min(ema, (1 + step) / (10 + step))
    new = network.state_dict()
    for name, tensor in average.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(new[name].to(tensor.dtype), 1 - keep)
        else:
            tensor.copy_(new[name])

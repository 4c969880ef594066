"""The optimiser, its learning rate at every step, and the average of the weights: arithmetic, no images."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from batchtag.config.training import ScheduleSpec


def make_optimizer(network: nn.Module, spec: ScheduleSpec) -> Optimizer:
    """Over what is trained of the network; biases and scales of norms do not decay (He et al. 2019, Bag of Tricks)."""
    trained = [tensor for tensor in network.parameters() if tensor.requires_grad]
    groups = [
        {"params": [tensor for tensor in trained if tensor.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [tensor for tensor in trained if tensor.ndim <= 1], "weight_decay": 0.0},
    ]
    if spec.optimizer == "adamw":
        return AdamW(groups, lr=spec.learning_rate)
    return SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, nesterov=spec.momentum > 0)


def learning_rate(step: int, *, spec: ScheduleSpec, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0: a straight warm-up, then half a cosine down to nothing (Loshchilov 2017)."""
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.learning_rate * (step + 1) / (warmup + 1)
    if spec.decay == "none":
        return spec.learning_rate
    total = max(1, spec.epochs * steps_per_epoch - warmup)
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / total)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """For all of its groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, *, step: int, ema: float) -> None:
    """One step of the exponential moving average. Early on less of the old is kept, (1 + step) / (10 + step), as
    TensorFlow's ExponentialMovingAverage does, or the random start would weigh on a short training."""
    keep = min(ema, (1 + step) / (10 + step))
    ours, theirs = average.state_dict(), network.state_dict()
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            tensor.lerp_(theirs[name].to(tensor.dtype), 1 - keep)
        else:
            tensor.copy_(theirs[name])

"""The state of a training at the end of an epoch, from which it can be resumed: state.json and state.safetensors.

No pickle. The tensors of the network, of its average, of the best weights so far and of the optimiser are in one file,
under prefixes; numbers and the history are JSON. The state of random generators is not needed: everything random in an
epoch follows from the seed and the number of the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from batchtag.training.events import HistoryEntry

STATE, TENSORS = "state.json", "state.safetensors"


@dataclass(kw_only=True)
class TrainingState:
    """The state at the end of an epoch. `history` has one entry for each epoch."""

    epochs_done: int
    steps_done: int
    best_epoch: int
    best_value: float
    is_over: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    """The scale of the loss in float16; empty in any other precision."""
    history: list[HistoryEntry] = field(default_factory=list)
    network: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    """Empty if the job asks for no average (train.ema is 0)."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Empty before the first evaluation."""
    optimizer: dict[str, Tensor] = field(default_factory=dict)


_NUMBERS = ("epochs_done", "steps_done", "best_epoch", "best_value", "is_over", "scaler", "history")
_PREFIXES = ("network", "average", "best", "optimizer")


def write_state(folder: Path, state: TrainingState) -> None:
    """Write both files into an existing folder."""
    tensors = {
        f"{prefix}/{name}": tensor.contiguous()
        for prefix in _PREFIXES
        for name, tensor in getattr(state, prefix).items()
    }
    # safetensors refuses two names for one tensor. Without an average the best weights are the network's own tensors.
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    safetensors.torch.save_file(tensors, folder / TENSORS)
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    (folder / STATE).write_text(json.dumps(numbers, allow_nan=True))


def read_state(folder: Path) -> TrainingState:
    """Read what `write_state` wrote."""
    state = TrainingState(**json.loads((folder / STATE).read_text()))
    for name, tensor in safetensors.torch.load_file(folder / TENSORS).items():
        prefix, _, rest = name.partition("/")
        getattr(state, prefix)[rest] = tensor
    return state


def copy_state_to_cpu(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of a network's tensors on the CPU, by name: what is saved."""
    with torch.no_grad():
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser keeps for each parameter, as `<parameter number>.<name>`, on the CPU.

    Plain numbers become tensors of one element.
    """
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().to("cpu", copy=True)
        for number, kept in optimizer.state_dict()["state"].items()
        for name, value in kept.items()
        if value is not None
    }


def fill_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `optimizer_tensors` into an optimiser of the same parameters."""
    content = optimizer.state_dict()
    kept: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        kept.setdefault(int(number), {})[name] = tensor
    content["state"] = kept
    optimizer.load_state_dict(content)

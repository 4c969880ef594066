"""All that training needs to go on from an epoch's end, without a pickle: state.json and state.safetensors.

Tensors of the network, its average, the best weights so far and the optimiser lie side by side under prefixes; numbers
and the history are JSON. Generators need no place in it: what is random in an epoch follows from seed and number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

STATE, TENSORS = "state.json", "state.safetensors"


@dataclass(kw_only=True)
class TrainingState:
    """At the end of an epoch. `history` has one entry an epoch: epoch, loss, learning_rate, seconds, metrics."""

    epochs_done: int
    steps_done: int
    best_epoch: int
    best_value: float
    is_over: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    """The scale of float16's losses; empty in any other precision."""
    history: list[dict[str, Any]] = field(default_factory=list)
    network: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    """Empty without an average."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Empty before the first evaluation."""
    optimizer: dict[str, Tensor] = field(default_factory=dict)


_NUMBERS = ("epochs_done", "steps_done", "best_epoch", "best_value", "is_over", "scaler", "history")
_PREFIXES = ("network", "average", "best", "optimizer")


def write_state(folder: Path, state: TrainingState) -> None:
    """Both files into a folder that exists."""
    tensors = {
        f"{prefix}/{name}": tensor.contiguous()
        for prefix in _PREFIXES
        for name, tensor in getattr(state, prefix).items()
    }
    # Two names may stand for one tensor (no average: the best are the network's own), which safetensors refuses.
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    safetensors.torch.save_file(tensors, folder / TENSORS)
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    (folder / STATE).write_text(json.dumps(numbers, allow_nan=True))


def read_state(folder: Path) -> TrainingState:
    """The inverse of `write_state`."""
    state = TrainingState(**json.loads((folder / STATE).read_text()))
    for name, tensor in safetensors.torch.load_file(folder / TENSORS).items():
        prefix, _, rest = name.partition("/")
        getattr(state, prefix)[rest] = tensor
    return state


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, as `<number>.<name>`; numbers become tensors of one element."""
    return {
        f"{number}.{name}": torch.as_tensor(value).detach().to("cpu", copy=True)
        for number, remembered in optimizer.state_dict()["state"].items()
        for name, value in remembered.items()
        if value is not None
    }


def fill_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse, for an optimiser over the same parameters."""
    content = optimizer.state_dict()
    remembered: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition(".")
        remembered.setdefault(int(number), {})[what] = tensor
    content["state"] = remembered
    optimizer.load_state_dict(content)

"""The training processes of one training, as each of them sees the others. Uses torch.distributed if there are several.

Ray Train sets up the connection between them before `TrainingProcess` starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process's number among all training processes, counted from 0, and its torch device."""

    rank: int
    num_processes: int
    device: str

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def gather(self, value: Any) -> list[Any]:
        """Return the values that all processes passed, in order of their ranks. All must call it."""
        if self.num_processes == 1:
            return [value]
        gathered: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def broadcast_from_first(self, value: Any) -> Any:
        """Return the value that the first process passed. All must call it."""
        if self.num_processes == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the buffers (batch norm statistics) of the first process's network to all others. All must call it."""
        if self.num_processes > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

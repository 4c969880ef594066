"""The result of a training, as `batchtag train` prints it and OUT/training.json keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchtag.console import format_duration
from batchtag.training.events import HistoryEntry


@dataclass(kw_only=True)
class TrainReport:
    """The result of a training. `digest` is the checkpoint's; `metrics` are those of its best epoch."""

    out: str
    digest: str = ""
    num_train: int = 0
    num_val: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    """Number of problems found in the labelled data, by kind."""
    metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    history: list[HistoryEntry] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """Return the result as one sentence."""
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return (
            f"trained {self.out} on {self.num_train:,} images in {format_duration(self.seconds)}; the best epoch is "
            f"{self.best_epoch} of {len(self.history)}, with {metrics} on {self.num_val:,} validation images"
        )

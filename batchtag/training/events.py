"""The events of a training: records that the first training process sends and the driver reads.

Needs neither torch nor Ray. The actor process that holds the log imports this file alone; with torch in it, that
process would take 12 s of a core and 900 MB only to pass on a few records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchtag.evaluation.scoring import Score

HistoryEntry = dict[str, Any]
"""The figures of one epoch: epoch, learning_rate, loss and its parts, seconds; and the metrics, if it was evaluated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStarted:
    """The training processes are ready. Sent again after a restart, with the epochs that were done before it."""

    epochs_done: int
    history: Sequence[HistoryEntry]
    num_loaded_tensors: int
    """Tensors of the network that were copied from the starting weights."""
    new_tensors: Sequence[str]
    """Names of the tensors that the starting weights do not have; they are random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """The optimiser has made step `step` of `num_steps` in this epoch; both count from 1."""

    epoch: int
    step: int
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProgress:
    """The state of an evaluation on the validation images. `subject` is what is evaluated, such as "epoch 3"."""

    subject: str
    num_done: int
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochDone:
    """An epoch was trained and, if it was due, evaluated."""

    entry: Mapping[str, Any]
    best_epoch: int
    is_last: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFinished:
    """The checkpoint of the best epoch is written. `digest` is the checkpoint's, `score` that of the stored weights."""

    digest: str
    score: Score
    history: Sequence[HistoryEntry]
    best_epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFailed:
    """The training failed for a reason that a restart would meet again."""

    message: str


TrainingEvent = TrainingStarted | StepDone | EvaluationProgress | EpochDone | TrainingFinished | TrainingFailed


class EventLog:
    """The events so far, in order. Runs as a Ray actor that needs no core."""

    def __init__(self) -> None:
        self._events: list[TrainingEvent] = []

    def append(self, event: TrainingEvent) -> None:
        self._events.append(event)

    def read(self, start: int) -> list[TrainingEvent]:
        """Return all events but the first `start`."""
        return self._events[start:]

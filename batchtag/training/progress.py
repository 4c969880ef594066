"""The progress of a training on the terminal: a live line for the current step, and a lasting line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchtag.console import format_duration
from batchtag.runs.progress import ProgressDisplay, RunProgress
from batchtag.training.events import (
    EpochDone,
    EvaluationProgress,
    HistoryEntry,
    StepDone,
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    TrainingStarted,
)

_SHOWN_METRICS = ("AP", "AP50", "AP75", "AR100", "accuracy", "top5", "macro_f1")
_MAX_SHOWN_PARTS = 6
"""Parts of a network without starting weights that a message names."""
_MIN_EPOCHS_FOR_ESTIMATE = 0.2
"""Epochs to be done before the remaining time is shown; an estimate from fewer steps changes too much."""


class TrainingProgress:
    """Follows the events of a training, in order, and prints them. Runs on the driver.

    `history` has the epochs so far. `finished` and `failure` are set by the event that ends the training.
    """

    def __init__(
        self,
        display: ProgressDisplay,
        *,
        num_epochs: int,
        on_epoch: Callable[[Mapping[str, Any]], None] = lambda entry: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_epoch` is called with the figures of each epoch when it ends."""
        self._display = display
        self._num_epochs = num_epochs
        self._on_epoch = on_epoch
        self._clock = clock
        self._phase = "starting to train"
        self._started_at = 0.0
        self._epochs_before_start = 0
        self.history: list[HistoryEntry] = []
        self.finished: TrainingFinished | None = None
        self.failure = ""

    def on_event(self, event: TrainingEvent) -> None:
        """Process the next event."""
        match event:
            case TrainingStarted():
                self._on_start(event)
            case StepDone():
                self._phase = self._describe_step(event)
            case EvaluationProgress():
                self._phase = f"evaluating {event.subject}: {event.num_done:,} of {event.num_images:,} images"
            case EpochDone():
                self._on_epoch_done(event)
            case TrainingFinished():
                self.finished = event
            case TrainingFailed():
                self.failure = event.message

    def show(self) -> None:
        """Show the current phase on the live line."""
        self._display.show(RunProgress(phase=self._phase))

    def _on_start(self, event: TrainingStarted) -> None:
        self.history = list(event.history)
        self._started_at, self._epochs_before_start = self._clock(), event.epochs_done
        if event.epochs_done:
            self._display.print_line(f"continuing after epoch {event.epochs_done} of {self._num_epochs}")
        elif event.num_loaded_tensors:
            new = _describe_new_parts(event.new_tensors)
            self._display.print_line(f"{event.num_loaded_tensors:,} tensors loaded from the starting weights{new}")

    def _describe_step(self, event: StepDone) -> str:
        done = event.epoch - 1 + event.step / event.num_steps
        done_since_start = done - self._epochs_before_start
        remaining = ""
        if done_since_start > _MIN_EPOCHS_FOR_ESTIMATE:
            epoch_s = (self._clock() - self._started_at) / done_since_start
            remaining = f", {format_duration(epoch_s * (self._num_epochs - done))} left"
        return f"epoch {event.epoch} of {self._num_epochs}: step {event.step:,} of {event.num_steps:,}{remaining}"

    def _on_epoch_done(self, event: EpochDone) -> None:
        entry = dict(event.entry)
        # After a restart an epoch may end a second time; it then replaces what the history has of it and of later ones.
        self.history = [earlier for earlier in self.history if earlier["epoch"] < entry["epoch"]] + [entry]
        self._on_epoch(entry)
        metrics = [f"{name} {entry[name]:.3f}" for name in _SHOWN_METRICS if name in entry]
        best = " (best so far)" if metrics and event.best_epoch == entry["epoch"] else ""
        pieces = [f"epoch {entry['epoch']:>3} of {self._num_epochs}", f"loss {entry['loss']:.4f}", *metrics]
        self._display.print_line("  ".join([*pieces, f"{entry['seconds']:.0f} s"]) + best)
        if event.is_last and entry["epoch"] < self._num_epochs:
            self._display.print_line(f"stopping early: epoch {event.best_epoch} remains the best")


def _describe_new_parts(new_tensors: Sequence[str]) -> str:
    """Name the parts of the network that the starting weights do not have."""
    parts = sorted({name.rpartition(".")[0] for name in new_tensors})
    if not parts:
        return ""
    more = ", ..." if len(parts) > _MAX_SHOWN_PARTS else ""
    return f"; new and random: {', '.join(parts[:_MAX_SHOWN_PARTS])}{more}"

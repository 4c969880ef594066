"""The lines that a training prints."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from batchtag.runs.progress import ProgressDisplay
from batchtag.training.events import EpochDone, TrainingEvent, TrainingStarted
from batchtag.training.progress import TrainingProgress

STARTED = TrainingStarted(epochs_done=0, history=[], num_loaded_tensors=0, new_tensors=())


def epoch_done(*, is_last: bool = False, **metrics: Any) -> EpochDone:
    return EpochDone(entry={"epoch": 1, "loss": 0.5, "seconds": 3.0, **metrics}, best_epoch=1, is_last=is_last)


def follow(*events: TrainingEvent) -> tuple[str, TrainingProgress]:
    """Return what is printed where stderr is not a terminal, and the progress after the events."""
    stderr = io.StringIO()
    with ProgressDisplay(Console(file=stderr, width=200)) as display:
        progress = TrainingProgress(display, num_epochs=3)
        for event in events:
            progress.on_event(event)
    return stderr.getvalue(), progress


def test_parts_of_the_network_that_the_starting_weights_do_not_have_are_named() -> None:
    new_tensors = ("head.cls.weight", "head.cls.bias", "head.box.weight")
    printed, _ = follow(replace(STARTED, num_loaded_tensors=290, new_tensors=new_tensors))
    assert printed == "290 tensors loaded from the starting weights; new and random: head.box, head.cls\n"
    assert follow(STARTED)[0] == ""


def test_an_epoch_that_is_trained_again_after_a_restart_is_in_the_history_once() -> None:
    printed, progress = follow(STARTED, epoch_done(AP=0.25), replace(STARTED, epochs_done=1), epoch_done(AP=0.3))
    assert "continuing after epoch 1 of 3" in printed
    assert [entry["AP"] for entry in progress.history] == [0.3]


def test_a_training_that_stops_early_says_which_epoch_remains_the_best() -> None:
    printed, _ = follow(STARTED, epoch_done(AP=0.25, is_last=True))
    assert "epoch   1 of 3  loss 0.5000  AP 0.250  3 s (best so far)" in printed
    assert "stopping early: epoch 1 remains the best" in printed

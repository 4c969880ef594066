"""What a person hears of a training."""

from __future__ import annotations

import io

from rich.console import Console

from batchtag.runs.progress import Progress
from batchtag.training.plan import News
from batchtag.training.progress import TrainingStory

EPOCH: News = {"kind": "epoch", "epoch": 1, "loss": 0.5, "AP": 0.25, "seconds": 3.0, "best_epoch": 1, "is_last": False}


def told(*news: News) -> tuple[str, TrainingStory]:
    """What is printed on a stream that is no terminal, and the story that knows the rest."""
    said = io.StringIO()
    with Progress(Console(file=said, width=200)) as progress:
        story = TrainingStory(progress, epochs=3)
        for one in news:
            story.hear(one)
    return said.getvalue(), story


def begin(**more: object) -> News:
    return {"kind": "begin", "epochs_done": 0, "history": [], "num_taken": 0, "left": (), **more}


def test_what_could_not_be_taken_from_the_weights_it_starts_from_is_named() -> None:
    said, _ = told(begin(num_taken=290, left=("head.cls.weight", "head.cls.bias", "head.box.weight")))
    assert said == "290 tensors come from the weights it starts from; new are head.box, head.cls\n"
    assert told(begin())[0] == ""


def test_an_epoch_that_came_again_after_a_death_stands_in_the_history_once() -> None:
    said, story = told(begin(), EPOCH, begin(epochs_done=1, history=[]), EPOCH | {"AP": 0.3})
    assert "going on after epoch 1 of 3" in said
    assert [entry["AP"] for entry in story.history] == [0.3]


def test_a_training_that_stops_early_says_which_epoch_stays_the_best() -> None:
    said, _ = told(begin(), EPOCH | {"is_last": True})
    assert "epoch   1 of 3  loss 0.5000  AP 0.250  3 s (best so far)" in said
    assert "stopping early: epoch 1 stays the best" in said

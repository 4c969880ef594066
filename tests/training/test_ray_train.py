"""The training processes under Ray Train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.train.torch import TorchTrainer

from batchtag.errors import ModelError
from batchtag.training.ray_train import CLEANER_CALLBACK, make_planned_trainer, permanent_failure

from .conftest import classification_job, plan_job


def test_another_ray_on_the_machine_does_not_end_a_training(colours: Path, tmp_path: Path) -> None:
    """A callback of Ray asks any Ray that it finds for the controller, and ends a training that it does not know."""
    plan = plan_job(classification_job(colours, tmp_path / "out"))
    trainer = make_planned_trainer(plan, event_log=None, use_gpu=False)
    ray_trainer: Any = TorchTrainer
    counts = [
        [type(callback).__name__ for callback in create(trainer)].count(CLEANER_CALLBACK)
        for create in (ray_trainer._create_default_callbacks, type(trainer)._create_default_callbacks)
    ]
    assert counts == [1, 0], "if Ray has no such callback any more, remove TrainerWithoutCleaner"


def test_only_errors_that_a_restart_would_meet_again_end_the_training() -> None:
    assert permanent_failure(FloatingPointError("the loss is nan")) == "the loss is nan"
    assert permanent_failure(ModelError("Traceback ...\nbatchtag.errors.ModelError: no weights")) == "no weights"
    assert permanent_failure(ConnectionError("a peer has died")) == ""

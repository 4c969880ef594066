"""Ray Train around the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.train.torch import TorchTrainer

from batchtag.training.ray_train import GUARD, make_trainer

from .conftest import classification_job, plan_of


def test_another_ray_on_the_machine_does_not_end_a_training(colours: Path, tmp_path: Path) -> None:
    """A guard of Ray's asks whatever Ray it finds after the controller, and ends what that does not know."""
    trainer = make_trainer(plan_of(classification_job(colours, tmp_path / "out")), board=None, use_gpu=False)
    ray_s: Any = TorchTrainer
    guards = [
        [type(one).__name__ for one in create(trainer)].count(GUARD)
        for create in (ray_s._create_default_callbacks, type(trainer)._create_default_callbacks)
    ]
    assert guards == [1, 0], "if Ray has it no more, `Trainer` has no purpose"

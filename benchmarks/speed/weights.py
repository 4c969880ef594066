"""Checkpoint folders with seeded weights, which every contender loads. `seeded` makes the networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model_weights

from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from batchtag.models.checkpoint.model_file import MODEL_FILE
from batchtag.models.torchvision.zoo import resolve_task
from benchmarks.speed.seeded import make_classifier, make_detector


def make_checkpoint(folder: Path, builder: str, *, images: Sequence[Path], seed: int = 0) -> Path:
    """Return the checkpoint folder of a builder. It is made if it does not exist; the largest takes a minute."""
    if (folder / MODEL_FILE).is_file():
        return folder
    task = resolve_task(builder)
    labels = list(get_model_weights(builder).DEFAULT.meta["categories"])
    # Labels must be unique, because answers are compared by label id, but a builder's categories may repeat a name
    # ("crane"). None may be "N/A", COCO's word for unused numbers: batchtag makes no tag of it, and peers would.
    labels = [
        f"{label}{'' if labels.index(label) == i and label != 'N/A' else f' {i}'}" for i, label in enumerate(labels)
    ]
    network: nn.Module
    preprocessing: dict[str, Any] = {}
    with torch.inference_mode():
        if task == "classify":
            network, preset = make_classifier(builder, images, seed=seed)
            preprocessing = preset.as_dict()
        else:
            network = make_detector(builder, images, seed=seed)
    save_checkpoint(
        str(folder),
        CheckpointContent(
            architecture=builder,
            labels=labels,
            task=task,
            preprocessing=preprocessing,
            state_dict=network.state_dict(),
            extra={"note": "seeded, for measuring time; its tags mean nothing"},
        ),
    )
    return folder

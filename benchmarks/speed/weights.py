"""Seeded weights as checkpoint folders which every contender loads. What makes them answer is in `seeded`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model_weights

from batchtag.models.checkpoint.model import save_checkpoint
from batchtag.models.checkpoint.model_file import MODEL
from batchtag.models.torchvision.zoo import task_of
from benchmarks.speed.seeded import classifier, detector


def checkpoint(folder: Path, builder: str, *, images: Sequence[Path], seed: int = 0) -> Path:
    """The checkpoint folder of a builder, made if it is not there. A minute for the largest, once."""
    if (folder / MODEL).is_file():
        return folder
    task = task_of(builder)
    labels = list(get_model_weights(builder).DEFAULT.meta["categories"])
    # A builder's categories may repeat names ("crane"); answers are compared by label id, so none may. Nor may any be
    # "N/A", COCO's word for numbers that it does not use: batchtag makes no tag of those, and peers would.
    labels = [
        f"{label}{'' if labels.index(label) == i and label != 'N/A' else f' {i}'}" for i, label in enumerate(labels)
    ]
    network: nn.Module
    preprocessing: dict[str, Any] = {}
    with torch.inference_mode():
        if task == "classify":
            network, preset = classifier(builder, images, seed=seed)
            preprocessing = preset.facts()
        else:
            network = detector(builder, images, seed=seed)
    save_checkpoint(
        str(folder),
        architecture=builder,
        arguments={},
        labels=labels,
        task=task,
        preprocessing=preprocessing,
        state_dict=network.state_dict(),
        extra={"note": "seeded, for measuring time; knows nothing"},
    )
    return folder

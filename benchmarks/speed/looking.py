"""What every peer does with an image, with torchvision alone: prepare it, look at it, write down what was found.

Nothing of batchtag is used: the peers are what a user would write. They share these lines so that the same weights,
preprocessing and columns are certain; how images reach them, and in which process, is each peer's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

SCORE_FLOOR, MOST_CLASSES, MOST_BOXES = 0.05, 5, 100
COLUMNS = pa.schema(
    [
        ("uri", pa.string()),
        ("tag", pa.string()),
        ("score", pa.float32()),
        ("kind", pa.string()),
        ("label_id", pa.int32()),
        ("rank", pa.int32()),
        *((name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a checkpoint folder's model.json says of it."""

    folder: str
    task: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]


def described(folder: str) -> Described:
    """Reads model.json, and no weights."""
    content = json.loads((Path(folder) / "model.json").read_text())
    return Described(
        folder=folder,
        task=content["task"],
        architecture=content["architecture"],
        labels=tuple(content["labels"]),
        preprocessing=content["preprocessing"],
    )


def prepared(model: Described, image: Tensor) -> Tensor:
    """A (3, H, W) uint8 image as that model takes it: (3, S, S) float32, normalised; a detector resizes by itself.

    By v2, which resizes bytes as bytes: four times as fast as the v1 of `weights.transforms()`, and at most 1 of 255
    away.
    """
    if model.task == "detect":
        return image.float().div(255)
    preset = model.preprocessing
    how = InterpolationMode(preset["interpolation"])
    image = F.resize(image, [preset["resize_size"]], interpolation=how, antialias=preset["antialias"])
    image = F.center_crop(image, [preset["crop_size"]]).float().div(255)
    ready: Tensor = F.normalize(image, mean=list(preset["mean"]), std=list(preset["std"]))
    return ready


def network_of(model: Described) -> nn.Module:
    """The network with its weights, ready to look. A classifier in channels-last, which is the faster on CPUs."""
    if model.task == "detect":
        limits = {"box_score_thresh": SCORE_FLOOR, "box_detections_per_img": MOST_BOXES}
        network: nn.Module = get_model(model.architecture, weights=None, weights_backbone=None, **limits)
    else:
        network = get_model(model.architecture, weights=None)
    network.load_state_dict(safetensors.torch.load_file(Path(model.folder) / "weights.safetensors"))
    network = network.eval()
    return network if model.task == "detect" else network.to(memory_format=torch.channels_last)


class Looker:
    """The networks of a task in memory. `threads` are torch's."""

    def __init__(self, folders: Sequence[str], *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.models = [described(folder) for folder in folders]
        self._networks = [network_of(model) for model in self.models]
        # A first pass is slower than all that follow; it is made before the clock starts, as batchtag's is.
        grey = torch.full((3, 256, 256), 128, dtype=torch.uint8)
        self.look(["warm-up"], [[prepared(model, grey)] for model in self.models])

    def look(self, uris: Sequence[str], inputs: Sequence[Sequence[Tensor]]) -> pa.Table:
        """The rows of a batch; `inputs[m][i]` is what `prepared` made of image i for model m."""
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for model, network, tensors in zip(self.models, self._networks, inputs, strict=True):
                if model.task == "detect":
                    found = network(list(tensors))
                    for uri, one in zip(uris, found, strict=True):
                        rows += boxes_rows(uri, model, one)
                else:
                    best = network(torch.stack(list(tensors))).softmax(dim=1).topk(MOST_CLASSES, dim=1)
                    for uri, scores, ids in zip(uris, best.values.tolist(), best.indices.tolist(), strict=True):
                        rows += class_rows(uri, model, scores, ids)
        return pa.Table.from_pylist(rows, schema=COLUMNS)


def class_rows(uri: str, model: Described, scores: Sequence[float], ids: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of one classified image, best first."""
    return [
        {"uri": uri, "tag": model.labels[i], "score": score, "kind": "class", "label_id": i, "rank": rank}
        for rank, (score, i) in enumerate(zip(scores, ids, strict=True), start=1)
        if score >= SCORE_FLOOR
    ]


def boxes_rows(uri: str, model: Described, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The rows of one image's boxes, best first."""
    answers = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    return [
        {"uri": uri, "tag": model.labels[i], "score": score, "kind": "object", "label_id": i, "rank": rank}
        | dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
        for rank, (box, score, i) in enumerate(answers, start=1)
    ]

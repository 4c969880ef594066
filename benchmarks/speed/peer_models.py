"""What every peer does with an image, with torchvision alone: preprocess it, run the models, and make rows.

Nothing of batchtag is used, because the peers are programs that a user would write. They share this file so that
weights, preprocessing and columns are certainly the same. How images reach the models, and in which process, is the
peer's own.
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

SCORE_FLOOR, MAX_CLASSES, MAX_BOXES = 0.05, 5, 100
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
class PeerModel:
    """The content of a checkpoint folder's model.json."""

    folder: str
    task: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]


def read_model(folder: str) -> PeerModel:
    """Read model.json of a checkpoint folder, without its weights."""
    content = json.loads((Path(folder) / "model.json").read_text())
    return PeerModel(
        folder=folder,
        task=content["task"],
        architecture=content["architecture"],
        labels=tuple(content["labels"]),
        preprocessing=content["preprocessing"],
    )


def preprocess(model: PeerModel, image: Tensor) -> Tensor:
    """Make the input of a model from a (3, H, W) uint8 RGB image.

    A classifier gets (3, S, S) float32, normalised. A detector gets (3, H, W) float32 in [0, 1] and resizes it itself.
    The resizing is torchvision's v2, which resizes bytes as bytes: four times as fast as v1 of `weights.transforms()`,
    and at most 1 of 255 different.
    """
    if model.task == "detect":
        return image.float().div(255)
    preset = model.preprocessing
    interpolation = InterpolationMode(preset["interpolation"])
    image = F.resize(image, [preset["resize_size"]], interpolation=interpolation, antialias=preset["antialias"])
    image = F.center_crop(image, [preset["crop_size"]]).float().div(255)
    normalised: Tensor = F.normalize(image, mean=list(preset["mean"]), std=list(preset["std"]))
    return normalised


def load_network(model: PeerModel) -> nn.Module:
    """Load the network with its weights, in eval mode. A classifier is channels-last, which is faster on CPUs."""
    if model.task == "detect":
        limits = {"box_score_thresh": SCORE_FLOOR, "box_detections_per_img": MAX_BOXES}
        network: nn.Module = get_model(model.architecture, weights=None, weights_backbone=None, **limits)
    else:
        network = get_model(model.architecture, weights=None)
    network.load_state_dict(safetensors.torch.load_file(Path(model.folder) / "weights.safetensors"))
    network = network.eval()
    return network if model.task == "detect" else network.to(memory_format=torch.channels_last)


class PeerTagger:
    """The networks of a task in memory. `threads` are torch's threads for one forward pass."""

    def __init__(self, folders: Sequence[str], *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.models = [read_model(folder) for folder in folders]
        self._networks = [load_network(model) for model in self.models]
        # The first pass is slower than all later ones. It is made before the time is measured, as batchtag does.
        grey = torch.full((3, 256, 256), 128, dtype=torch.uint8)
        self.tag(["warm-up"], [[preprocess(model, grey)] for model in self.models])

    def tag(self, uris: Sequence[str], inputs: Sequence[Sequence[Tensor]]) -> pa.Table:
        """Return the rows of a batch. `inputs[m][i]` is what `preprocess` made of image i for model m."""
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for model, network, tensors in zip(self.models, self._networks, inputs, strict=True):
                if model.task == "detect":
                    for uri, detections in zip(uris, network(list(tensors)), strict=True):
                        rows += box_rows(uri, model, detections)
                else:
                    best = network(torch.stack(list(tensors))).softmax(dim=1).topk(MAX_CLASSES, dim=1)
                    for uri, scores, ids in zip(uris, best.values.tolist(), best.indices.tolist(), strict=True):
                        rows += class_rows(uri, model, scores, ids)
        return pa.Table.from_pylist(rows, schema=COLUMNS)


def class_rows(uri: str, model: PeerModel, scores: Sequence[float], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of one classified image, best first."""
    return [
        {"uri": uri, "tag": model.labels[i], "score": score, "kind": "class", "label_id": i, "rank": rank}
        for rank, (score, i) in enumerate(zip(scores, ids, strict=True), start=1)
        if score >= SCORE_FLOOR
    ]


def box_rows(uri: str, model: PeerModel, detections: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Return the rows of one image's boxes, best first."""
    boxes, scores, labels = (detections[name].tolist() for name in ("boxes", "scores", "labels"))
    return [
        {"uri": uri, "tag": model.labels[i], "score": score, "kind": "object", "label_id": i, "rank": rank}
        | dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
        for rank, (box, score, i) in enumerate(zip(boxes, scores, labels, strict=True), start=1)
    ]

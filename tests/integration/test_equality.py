"""The rows that a run writes are what torchvision's documented use says of the same files, at the defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision import models as published
from torchvision.transforms.functional import pil_to_tensor

from batchtag.models.checkpoint.model import save_checkpoint
from tests.integration.conftest import Tag
from tests.models.conftest import awake_detector, photos
from tests.support.alike import assert_alike

__all__ = ["awake_detector", "photos"]
DETECTOR, CLASSIFIER = "fasterrcnn_mobilenet_v3_large_320_fpn", "resnet50"
LABELS = published.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """Real photographs, one of them turned by its EXIF value, under names of their own."""
    files = sorted((shared_data / "photos").rglob("*.jpg"))[:10]
    files.append(shared_data / "hostile/exif-orientation/Landscape_6.jpg")
    images = tmp_path / "in"
    images.mkdir()
    for number, file in enumerate(files):
        (images / f"{number:02d}.jpg").write_bytes(file.read_bytes())
    return images


def test_the_rows_of_a_run_are_what_torchvision_says_of_the_same_files(
    tag: Tag, folder: Path, tmp_path: Path, awake_detector: Callable[..., nn.Module]
) -> None:
    network = awake_detector(DETECTOR, box_score_thresh=0.05)
    checkpoint = tmp_path / "detector"
    save_checkpoint(
        str(checkpoint),
        architecture=DETECTOR,
        arguments={},
        labels=LABELS,
        task="detect",
        preprocessing={},
        state_dict=network.state_dict(),
    )
    untrained = {"kind": "torchvision", "builder": CLASSIFIER, "weights": "none", "seed": 3, "score_floor": 0.0}
    models = [{"kind": "checkpoint", "uri": str(checkpoint)}, untrained]
    out = tmp_path / "out"
    tag(str(folder), str(out), models=models, compute={"batch_size": 4})
    torch.manual_seed(3)
    classifier = published.get_model(CLASSIFIER, weights=None).eval()
    transforms = published.get_model_weights(CLASSIFIER).DEFAULT.transforms()
    for file in sorted(folder.iterdir()):
        photo = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        objects, classes = _rows(out, file, "object"), _rows(out, file, "class")
        with torch.inference_mode():
            found = network([pil_to_tensor(photo) / 255])[0]
            scores = classifier(transforms(pil_to_tensor(photo))[None]).softmax(1)[0]
        tags = [i for i, label in enumerate(found["labels"].tolist()) if LABELS[label] not in ("N/A", "__background__")]
        theirs = {name: column[tags].numpy() for name, column in found.items()}
        boxes = np.stack([objects[side] for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
        assert_alike(
            (objects["label_id"], objects["score"], boxes), (theirs["labels"], theirs["scores"], theirs["boxes"])
        )
        np.testing.assert_allclose(classes["score"], scores.topk(5).values.numpy(), atol=0.005)


def _rows(out: Path, file: Path, kind: str) -> dict[str, Any]:
    with duckdb.connect() as database:
        return database.execute(
            f"select * from '{out}/tags/*.parquet' where uri = ? and kind = ? order by rank", [str(file), kind]
        ).fetchnumpy()

"""The rows that a run writes at its defaults equal torchvision's answers by its documented use, for the same files."""

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
from torchvision import models as torchvision_models
from torchvision.transforms.functional import pil_to_tensor

from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint
from tests.integration.conftest import Tag
from tests.models.conftest import photos, responsive_detector
from tests.support.alike import assert_alike

__all__ = ["photos", "responsive_detector"]
DETECTOR, CLASSIFIER, SEED = "fasterrcnn_mobilenet_v3_large_320_fpn", "resnet18", 3
LABELS = torchvision_models.detection.FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]
NO_TAGS = ("N/A", "__background__")
"""Labels of COCO that batchtag makes no tags of."""


@pytest.fixture
def folder(shared_data: Path, tmp_path: Path) -> Path:
    """Five real photographs, and one that its EXIF value rotates."""
    files = sorted((shared_data / "photos").rglob("*.jpg"))[:5]
    files.append(shared_data / "hostile/exif-orientation/Landscape_6.jpg")
    images = tmp_path / "in"
    images.mkdir()
    for number, file in enumerate(files):
        (images / f"{number:02d}.jpg").write_bytes(file.read_bytes())
    return images


def test_the_rows_of_a_run_equal_the_answers_of_torchvision_for_the_same_files(
    tag: Tag, folder: Path, tmp_path: Path, responsive_detector: Callable[..., nn.Module]
) -> None:
    detector = responsive_detector(DETECTOR, box_score_thresh=0.05)
    checkpoint = tmp_path / "detector"
    content = CheckpointContent(
        architecture=DETECTOR, labels=LABELS, task="detect", preprocessing={}, state_dict=detector.state_dict()
    )
    save_checkpoint(str(checkpoint), content)
    untrained = {"kind": "torchvision", "builder": CLASSIFIER, "weights": "none", "seed": SEED, "score_floor": 0.0}
    models = [{"kind": "checkpoint", "uri": str(checkpoint)}, untrained]
    out = tmp_path / "out"
    tag(str(folder), str(out), models=models, compute={"batch_size": 4})
    torch.manual_seed(SEED)
    classifier = torchvision_models.get_model(CLASSIFIER, weights=None).eval()
    transforms = torchvision_models.get_model_weights(CLASSIFIER).DEFAULT.transforms()
    for file in sorted(folder.iterdir()):
        pixels = pil_to_tensor(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        with torch.inference_mode():
            detections = detector([pixels / 255])[0]
            scores = classifier(transforms(pixels)[None]).softmax(1)[0]
        tagged = [i for i, label in enumerate(detections["labels"].tolist()) if LABELS[label] not in NO_TAGS]
        theirs = {name: column[tagged].numpy() for name, column in detections.items()}
        objects, classes = _read_tags(out, file, "object"), _read_tags(out, file, "class")
        boxes = np.stack([objects[side] for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
        assert_alike(
            (objects["label_id"], objects["score"], boxes), (theirs["labels"], theirs["scores"], theirs["boxes"])
        )
        np.testing.assert_allclose(classes["score"], scores.topk(5).values.numpy(), atol=0.005)


def _read_tags(out: Path, file: Path, kind: str) -> dict[str, Any]:
    """Return the columns of an image's tags of one kind, best first."""
    with duckdb.connect() as database:
        return database.execute(
            f"select * from '{out}/tags/*.parquet' where uri = ? and kind = ? order by rank", [str(file), kind]
        ).fetchnumpy()

"""Small labelled images and training jobs of seconds: red and blue boxes to detect, colours to classify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchtag.config.training import TrainSpec, with_absolute_uris
from batchtag.datasets.validate import CheckedData, read_checked_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.training.events import TrainingEvent
from batchtag.training.loop import TrainingProcess
from batchtag.training.plan import TrainPlan, plan_training
from batchtag.training.process_group import ProcessGroup

COLOURS = {"blue": (40, 60, 220), "red": (220, 40, 40)}
SIDE_PX = 96


def draw_boxes(folder: Path, *, num_images: int, seed: int = 0) -> Path:
    """Write images of one to three coloured boxes on noise, and instances.json beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(num_images):
        pixels = dice.integers(90, 160, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        for _ in range(int(dice.integers(1, 4))):
            label = int(dice.integers(2))
            x, y = (int(v) for v in dice.integers(2, SIDE_PX - 42, 2))
            w, h = (int(v) for v in dice.integers(20, 40, 2))
            pixels[y : y + h, x : x + w] = list(COLOURS.values())[label]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        name = f"{number:03d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": SIDE_PX, "height": SIDE_PX})
    categories = [{"id": i, "name": name} for i, name in enumerate(COLOURS)]
    ground_truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(ground_truth))
    return folder


def draw_classes(folder: Path, *, num_images: int, seed: int = 0) -> Path:
    """Write a folder of noisy images for each colour."""
    dice = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(num_images):
            noise = dice.integers(-40, 40, (40, 48, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def detection_job(folder: Path, out: Path, **train: Any) -> dict[str, Any]:
    """Return a training job of seconds on `draw_boxes`."""
    return {
        "version": 1,
        "data": {
            "train": {"kind": "coco", "uri": str(folder / "instances.json")},
            "val": {"kind": "holdout", "share": 0.25},
        },
        "network": {"architecture": "fasterrcnn_small_fpn", "start": "none"},
        "input": {"min_size": 96, "max_size": 96},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.001, "warmup_epochs": 0.5, **train},
        "compute": {"loaders": 0},
        "output": {"uri": str(out)},
    }


def classification_job(folder: Path, out: Path, **train: Any) -> dict[str, Any]:
    """Return a training job of seconds on `draw_classes`."""
    return {
        "version": 1,
        "data": {"train": {"kind": "folders", "uri": str(folder)}, "val": {"kind": "holdout", "share": 0.25}},
        "network": {"architecture": "shufflenet_v2_x0_5", "start": "none"},
        "input": {"resize_size": 32, "crop_size": 32},
        "train": {"epochs": 2, "batch_size": 4, "learning_rate": 0.002, "warmup_epochs": 0.5, **train},
        "compute": {"loaders": 0},
        "output": {"uri": str(out)},
    }


def read_job_data(job: dict[str, Any]) -> CheckedData:
    spec = with_absolute_uris(TrainSpec.model_validate(job))
    return read_checked_data(spec.data, rules=DecodeRules(), threads=2)


def plan_job(job: dict[str, Any], *, cores: int = 1) -> TrainPlan:
    spec = with_absolute_uris(TrainSpec.model_validate(job))
    return plan_training(spec, read_job_data(job), use_gpu=False, cores=cores)


def make_process(
    job: dict[str, Any], *, cores: int = 1, on_event: Callable[[TrainingEvent], None] = lambda event: None
) -> TrainingProcess:
    """Make a training process without Ray."""
    group = ProcessGroup(rank=0, num_processes=1, device="cpu")
    return TrainingProcess(plan_job(job, cores=cores), group, wrap=lambda network: network, on_event=on_event)


def train(process: TrainingProcess) -> TrainingProcess:
    """Run all epochs that remain."""
    while not process.state.is_over:
        process.run_epoch()
    return process


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_boxes(tmp_path_factory.mktemp("boxes"), num_images=16)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("colours"), num_images=8)

"""A model that is evaluated on images gets the same numbers as an evaluation of the tables of its run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from batchtag import models
from batchtag.config.model import CheckpointSpec
from batchtag.datasets import Dataset
from batchtag.evaluation.evaluate import evaluate_model, evaluate_out
from batchtag.evaluation.ground_truth import check_ground_truth, open_ground_truth
from batchtag.evaluation.result import Evaluation
from batchtag.pipeline.tagger import tag_images
from batchtag.training.state import copy_state_to_cpu
from batchtag.training.trainable import make_trainable
from tests.integration.conftest import Tag
from tests.support.images import jpeg

pytestmark = pytest.mark.slow
CLASSES = tuple(f"kind {i}" for i in range(8))
SIZES = [(200, 160), (700, 500), (1500, 1100)]
"""Sizes that are decoded at full scale, 1/2 and 1/4."""
UPRIGHT, ROTATED = 1, 6


@dataclass(frozen=True, kw_only=True)
class EvaluatedFolder:
    """Twelve images and a broken one, in a folder for each class, with a detector, a classifier, and an OUT of both."""

    folder: Path

    def spec(self, model: str) -> CheckpointSpec:
        return CheckpointSpec(uri=str(self.folder / model))

    @property
    def out(self) -> str:
        return str(self.folder / "tags")

    def ground_truth(self, model: str) -> Dataset:
        return open_ground_truth(str(self.folder / ("boxes.json" if model == "detector" else "val")))

    def evaluate_by_model(self, model: str) -> Evaluation:
        ground_truth = check_ground_truth(self.ground_truth(model), on_progress=print)
        return evaluate_model(self.spec(model), ground_truth, data="val", on_progress=print)

    def evaluate_by_tables(self, model: str) -> Evaluation:
        return evaluate_out(self.out, self.ground_truth(model), data="val")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedFolder:
    """Images of several sizes, some rotated by their EXIF value, before the run."""
    folder = tmp_path_factory.mktemp("evaluated")
    for i in range(12):
        class_folder = folder / "val" / CLASSES[i % len(CLASSES)]
        class_folder.mkdir(parents=True, exist_ok=True)
        data = draw_jpeg(i, SIZES[i % 3], orientation=ROTATED if i % 4 == 1 else UPRIGHT)
        (class_folder / f"{i}.jpg").write_bytes(data)
    whole = (folder / "val" / CLASSES[0] / "0.jpg").read_bytes()
    (folder / "val" / CLASSES[0] / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    save_untrained(
        folder / "detector", "fasterrcnn_small_fpn", task="detect", preprocessing={"min_size": 96, "max_size": 160}
    )
    save_untrained(folder / "classifier", "squeezenet1_1", task="classify", preprocessing={"crop_size": 64})
    (folder / "boxes.json").write_text(json.dumps(make_ground_truth(folder)))
    return EvaluatedFolder(folder=folder)


@pytest.fixture
def tagged(labelled: EvaluatedFolder, tag: Tag) -> EvaluatedFolder:
    """The same images after a run; for the second test the run has nothing to do."""
    both = [{"kind": "checkpoint", "uri": str(labelled.folder / name)} for name in ("detector", "classifier")]
    report = tag(str(labelled.folder / "val"), labelled.out, models=both)
    assert (report.num_tagged, report.num_failed) == (12, 1)
    return labelled


def draw_jpeg(number: int, size: tuple[int, int], *, orientation: int) -> bytes:
    """Draw discs and rectangles, so that the answers of a network depend on the image."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for i in range(12):
        x, y = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
        side = int(rng.integers(size[1] // 12, size[1] // 3))
        draw_shape = draw.ellipse if i % 2 else draw.rectangle
        draw_shape([x, y, x + side, y + side], fill=tuple(rng.integers(0, 255, 3).tolist()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def save_untrained(folder: Path, architecture: str, *, task: Any, preprocessing: dict[str, Any]) -> None:
    """Write a checkpoint with random weights."""
    trainable = make_trainable(architecture, task=task, labels=CLASSES, preprocessing=preprocessing, seed=1)
    trainable.save(str(folder), copy_state_to_cpu(trainable.network), metrics={}, thresholds={}, extra={})


def make_ground_truth(folder: Path) -> dict[str, Any]:
    """Return a COCO file with half of the detector's own boxes, a little narrower.

    A detector with random weights is good at it, but not perfect. An overlap of 0.87 lies between COCO's steps, so that
    the last bits of a float do not matter.
    """
    spec = CheckpointSpec(uri=str(folder / "detector"))
    info = models.prepare(spec)
    uris = sorted(str(path) for path in (folder / "val").rglob("*.jpg"))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, result in enumerate(tag_images(uris, [(info, models.load(spec))]), start=1):
        images.append({"id": number, "file_name": result.ref.uri.removeprefix(f"{folder}/")})
        if result.failure is not None:
            continue
        images[-1] |= {"width": result.width, "height": result.height}
        (image_prediction,) = result.predictions
        boxes = (image_prediction.prediction.boxes_xyxy * np.tile(image_prediction.scale_xy, 2)).tolist()
        label_ids = image_prediction.prediction.label_ids.tolist()
        for (x_min, y_min, x_max, y_max), label_id in list(zip(boxes, label_ids, strict=True))[:40:2]:
            bbox = [x_min, y_min, 0.87 * (x_max - x_min), y_max - y_min]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label_id, "bbox": bbox, "iscrowd": 0}
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def comparable_parts(evaluation: Evaluation, *without: str) -> dict[str, Any]:
    """Return an evaluation as plain data, without what the two ways cannot have in common."""
    left_out = ("evaluated_at", "settings", "note", *without)
    return {key: value for key, value in evaluation.as_dict().items() if key not in left_out}


def list_differences(ours: Any, theirs: Any, path: str = "", *, tolerance: float = 1e-6) -> list[str]:
    """Return the paths at which two pieces of plain data differ by more than `tolerance`.

    The boxes of the worst mistakes may differ by a hundredth of a pixel, because a run has other images in a batch.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs})
        pairs = [(f"{path}.{key}", ours.get(key), theirs.get(key)) for key in keys]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(f"{path}[{i}]", *both) for i, both in enumerate(zip(ours, theirs, strict=True))]
    elif isinstance(ours, float) and isinstance(theirs, float):
        return [] if abs(ours - theirs) <= tolerance else [f"{path}: {ours} and {theirs}"]
    else:
        return [] if ours == theirs else [f"{path}: {ours!r} and {theirs!r}"]
    return [
        difference
        for where, one, other in pairs
        for difference in list_differences(
            one, other, where, tolerance=0.01 if where == ".metrics.mistakes" else tolerance
        )
    ]


def test_a_detector_gets_the_same_numbers_from_its_model_and_from_its_tables(tagged: EvaluatedFolder) -> None:
    by_model, by_tables = tagged.evaluate_by_model("detector"), tagged.evaluate_by_tables("detector")
    assert list_differences(comparable_parts(by_model), comparable_parts(by_tables)) == []
    assert by_model.num_problems == {"undecodable": 1}
    assert 0.2 < by_model.score.metrics.summary["AP"] < 0.9, "a comparison of nothing with nothing proves nothing"


def test_a_classifier_gets_the_same_numbers_except_those_that_need_the_scores_of_all_labels(
    tagged: EvaluatedFolder,
) -> None:
    by_model, by_tables = tagged.evaluate_by_model("classifier"), tagged.evaluate_by_tables("classifier")
    parts_by_model = comparable_parts(by_model, "metrics", "thresholds")
    assert list_differences(parts_by_model, comparable_parts(by_tables, "metrics", "thresholds")) == []
    ours, theirs = by_model.as_dict()["metrics"], by_tables.as_dict()["metrics"]
    assert list_differences(ours["confusion"], theirs["confusion"]) == []
    rates = [name for name in ours["summary"] if name != "auc"]
    assert {name: theirs["summary"][name] for name in rates} == pytest.approx(
        {name: ours["summary"][name] for name in rates}, abs=1e-6
    )
    assert theirs["summary"]["auc"] != pytest.approx(ours["summary"]["auc"], abs=1e-6)
    assert "AUC" in by_tables.note
    assert by_model.note == ""

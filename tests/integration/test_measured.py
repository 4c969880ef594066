"""What is measured is what runs: a model that looks now gets the very figures that its run's tables give."""

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
from batchtag.evaluation.evaluate import checked_ground_truth, evaluate_model, evaluate_out, open_ground_truth
from batchtag.evaluation.result import Evaluation
from batchtag.pipeline.tagger import predict
from batchtag.training.trainable import float_tensors, make_trainable
from tests.integration.conftest import Tag
from tests.support.images import jpeg

CLASSES = tuple(f"kind {i}" for i in range(8))
UPRIGHT, TURNED = 1, 6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Twelve images and a broken one, in a folder a class, tagged by both models."""

    folder: Path

    def spec(self, name: str) -> CheckpointSpec:
        return CheckpointSpec(uri=str(self.folder / name))

    @property
    def out(self) -> str:
        return str(self.folder / "tags")

    def ground_truth(self, name: str) -> Dataset:
        return open_ground_truth(str(self.folder / ("boxes.json" if name == "detector" else "val")))

    def by_looking(self, name: str) -> Evaluation:
        ground_truth = checked_ground_truth(self.ground_truth(name), told=print)
        return evaluate_model(self.spec(name), ground_truth, data="val", told=print)

    def by_tables(self, name: str) -> Evaluation:
        return evaluate_out(self.out, self.ground_truth(name), data="val")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Sizes and turns such that images are decoded at full scale, 1/2 and 1/4, upright and not."""
    folder = tmp_path_factory.mktemp("measured")
    sizes = [(200, 160), (700, 500), (1500, 1100)]
    for i in range(12):
        into = folder / "val" / CLASSES[i % len(CLASSES)]
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{i}.jpg").write_bytes(drawn(i, sizes[i % 3], orientation=TURNED if i % 4 == 1 else UPRIGHT))
    whole = (folder / "val" / CLASSES[0] / "0.jpg").read_bytes()
    (folder / "val" / CLASSES[0] / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    save(folder / "detector", "fasterrcnn_small_fpn", task="detect", preprocessing={"min_size": 96, "max_size": 160})
    save(folder / "classifier", "squeezenet1_1", task="classify", preprocessing={"crop_size": 64})
    (folder / "boxes.json").write_text(json.dumps(half_of_what_it_finds(folder)))
    return Measured(folder=folder)


@pytest.fixture
def tagged(made: Measured, tag: Tag) -> Measured:
    """The same images after a run; the second test finds it done."""
    both = [{"kind": "checkpoint", "uri": str(made.folder / name)} for name in ("detector", "classifier")]
    report = tag(str(made.folder / "val"), made.out, models=both)
    assert (report.num_tagged, report.num_failed) == (12, 1)
    return made


def drawn(number: int, size: tuple[int, int], *, orientation: int) -> bytes:
    """Discs and squares on a ground, so that a network has something to be moved by."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for i in range(12):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        side = int(rng.integers(size[1] // 12, size[1] // 3))
        pen.__getattribute__("ellipse" if i % 2 else "rectangle")(
            [x, y, x + side, y + side], fill=tuple(rng.integers(0, 255, 3).tolist())
        )
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(image, exif=exif)


def save(folder: Path, architecture: str, *, task: Any, preprocessing: dict[str, Any]) -> None:
    """A checkpoint with random weights."""
    made = make_trainable(
        architecture, arguments={}, labels=CLASSES, task=task, preprocessing=preprocessing, start=None, seed=1
    )
    made.save(str(folder), float_tensors(made.network), metrics={}, thresholds={}, extra={})


def half_of_what_it_finds(folder: Path) -> dict[str, Any]:
    """A truth that a detector with random weights is good at, and not perfect: its own boxes, a little narrower.

    An overlap of 0.87 lies between COCO's steps, so the last bits of a float decide nothing.
    """
    spec = CheckpointSpec(uri=str(folder / "detector"))
    info = models.prepare(spec)
    uris = sorted(str(path) for path in (folder / "val").rglob("*.jpg"))
    outcomes = predict(uris, [(info, models.load(spec))])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (uri, outcome) in enumerate(zip(uris, outcomes, strict=True), start=1):
        images.append({"id": number, "file_name": uri.removeprefix(f"{folder}/")})
        if outcome.failure is not None:
            continue
        images[-1] |= {"width": outcome.width, "height": outcome.height}
        (finding,) = outcome.findings
        boxes = finding.prediction.boxes_xyxy * np.tile(finding.scale_xy, 2)
        for box, label_id in list(zip(boxes.tolist(), finding.prediction.label_ids.tolist(), strict=True))[:40:2]:
            x_min, y_min, x_max, y_max = box
            bbox = [x_min, y_min, 0.87 * (x_max - x_min), y_max - y_min]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label_id, "bbox": bbox, "iscrowd": 0}
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def plain(found: Evaluation, *without: str) -> dict[str, Any]:
    content = found.as_dict()
    return {key: value for key, value in content.items() if key not in ("evaluated_at", "settings", "note", *without)}


def differences(mine: Any, theirs: Any, path: str = "", *, most: float = 1e-6) -> list[str]:
    """Where two pieces of plain data differ by more than `most`.

    The boxes of the worst mistakes may differ by a hundredth of a pixel: a run puts other images into a batch.
    """
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs})
        pairs = [(f"{path}.{key}", mine.get(key), theirs.get(key)) for key in keys]
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = [(f"{path}[{i}]", *both) for i, both in enumerate(zip(mine, theirs, strict=True))]
    elif isinstance(mine, float) and isinstance(theirs, float):
        return [] if abs(mine - theirs) <= most else [f"{path}: {mine} and {theirs}"]
    else:
        return [] if mine == theirs else [f"{path}: {mine!r} and {theirs!r}"]
    return [
        line
        for where, one, other in pairs
        for line in differences(one, other, where, most=0.01 if where == ".metrics.mistakes" else most)
    ]


def test_a_detector_and_its_tables_have_every_figure_in_common(tagged: Measured) -> None:
    looked, read = tagged.by_looking("detector"), tagged.by_tables("detector")
    assert differences(plain(looked), plain(read)) == []
    assert looked.num_problems == {"undecodable": 1}
    assert 0.2 < looked.score.metrics.summary["AP"] < 0.9, "a comparison of nothing with nothing would prove nothing"


def test_a_classifier_and_its_tables_agree_on_what_it_said_and_the_tables_say_what_they_lack(tagged: Measured) -> None:
    looked, read = tagged.by_looking("classifier"), tagged.by_tables("classifier")
    assert differences(plain(looked, "metrics", "thresholds"), plain(read, "metrics", "thresholds")) == []
    mine, theirs = looked.as_dict()["metrics"], read.as_dict()["metrics"]
    assert differences(mine["confusion"], theirs["confusion"]) == []
    rates = [name for name in mine["summary"] if name != "auc"]
    assert {name: theirs["summary"][name] for name in rates} == pytest.approx(
        {name: mine["summary"][name] for name in rates}, abs=1e-6
    )
    assert theirs["summary"]["auc"] != pytest.approx(mine["summary"]["auc"], abs=1e-6)
    assert "AUC" in read.note
    assert looked.note == ""

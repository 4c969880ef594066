"""The demonstration, once and small, as a person starts it: its models travel with the package and are good enough."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from batchtag.demo.run import BRANDS_MODEL, PRODUCTS, TRAINING_SEEDS, model_folder, run_demo
from batchtag.demo.scenes import BRANDS, SHAPES

NUM_IMAGES = 8
SEED = 20_261


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of one demonstration, its answer and its story, 100 columns wide."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    answer, story = io.StringIO(), io.StringIO()
    run_demo(
        folder,
        num_images=NUM_IMAGES,
        seed=SEED,
        console=Console(file=story, width=100),
        answer=Console(file=answer, width=100),
    )
    return folder, answer.getvalue(), story.getvalue()


def test_the_models_are_small_and_were_not_trained_on_what_is_shown() -> None:
    folders = [Path(model_folder(name)) for name in (PRODUCTS, BRANDS_MODEL)]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 8 * 2**20
    assert SEED not in TRAINING_SEEDS
    labels = [json.loads((folder / "model.json").read_text())["labels"] for folder in folders]
    assert set(labels[0]) == {"__background__", *(shape.name for shape in SHAPES)}
    assert set(labels[1]) == {brand.name for brand in BRANDS}
    assert all(json.loads((folder / "model.json").read_text())["thresholds"] for folder in folders)


def test_every_image_has_one_outcome_and_the_broken_ones_say_why(shown: tuple[Path, str, str]) -> None:
    _, answer, story = shown
    assert f"{NUM_IMAGES} tagged + 2 failed + 0 duplicate of {NUM_IMAGES + 2} images" in story
    assert "every promise is kept" in story
    for name in ("cut-off.jpg", "truncated", "not-a-image.jpg", "unsupported"):
        assert name in answer


def test_the_inventory_counts_every_shape_of_every_brand(shown: tuple[Path, str, str]) -> None:
    _, answer, _ = shown
    lines = {words[0]: words[1:] for line in answer.splitlines() if len(words := line.split()) == len(BRANDS) + 2}
    assert lines.keys() >= {shape.name for shape in SHAPES} | {"all"}
    found, _, true = lines["all"][-1].partition("/")
    assert abs(int(found) - int(true or found)) <= 0.25 * int(true or found)


def test_both_models_are_judged_and_the_reports_are_there(shown: tuple[Path, str, str]) -> None:
    folder, answer, story = shown
    figures: dict[str, float] = {}
    for name in (PRODUCTS, BRANDS_MODEL):
        assert (folder / "report" / name / "report.html").stat().st_size > 10_000
        figures |= json.loads((folder / "report" / name / "evaluation.json").read_text())["metrics"]["summary"]
        assert f"{name}: " in answer
    assert figures["AP50"] >= 0.8
    assert figures["accuracy"] >= 0.9
    assert "batchtag run ./photos" in story

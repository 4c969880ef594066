"""The demonstration, once and small: its models are part of the package and good enough."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from batchtag.demo.run import BRANDS_MODEL, PRODUCTS, TRAINING_SEEDS, model_folder, run_demo
from batchtag.demo.scenes import BRANDS, SHAPES

NUM_IMAGES = 8
SEED = 20_261


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run one demonstration. Returns its folder, its stdout and its stderr, 100 columns wide."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    stdout, stderr = io.StringIO(), io.StringIO()
    run_demo(
        folder,
        num_images=NUM_IMAGES,
        seed=SEED,
        console=Console(file=stderr, width=100),
        answer=Console(file=stdout, width=100),
    )
    return folder, stdout.getvalue(), stderr.getvalue()


def test_the_models_are_small_and_know_all_shapes_and_brands() -> None:
    folders = [Path(model_folder(name)) for name in (PRODUCTS, BRANDS_MODEL)]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 8 * 2**20
    assert SEED not in TRAINING_SEEDS
    labels = [json.loads((folder / "model.json").read_text())["labels"] for folder in folders]
    assert set(labels[0]) == {"__background__", *(shape.name for shape in SHAPES)}
    assert set(labels[1]) == {brand.name for brand in BRANDS}
    assert all(json.loads((folder / "model.json").read_text())["thresholds"] for folder in folders)


@pytest.mark.slow
def test_every_image_has_one_result_and_the_broken_ones_have_their_reason(demo: tuple[Path, str, str]) -> None:
    _, stdout, stderr = demo
    assert f"{NUM_IMAGES} tagged + 2 failed + 0 duplicate of {NUM_IMAGES + 2} images" in stderr
    assert "checks passed" in stderr
    for text in ("cut-off.jpg", "truncated", "not-an-image.jpg", "unsupported"):
        assert text in stdout


@pytest.mark.slow
def test_the_inventory_counts_every_shape_of_every_brand(demo: tuple[Path, str, str]) -> None:
    _, stdout, _ = demo
    lines = {words[0]: words[1:] for line in stdout.splitlines() if len(words := line.split()) == len(BRANDS) + 2}
    assert lines.keys() >= {shape.name for shape in SHAPES} | {"all"}
    found, _, true = lines["all"][-1].partition("/")
    assert abs(int(found) - int(true or found)) <= 0.25 * int(true or found)


@pytest.mark.slow
def test_both_models_are_evaluated_and_their_reports_are_written(demo: tuple[Path, str, str]) -> None:
    folder, stdout, stderr = demo
    metrics: dict[str, float] = {}
    for name in (PRODUCTS, BRANDS_MODEL):
        assert (folder / "report" / name / "report.html").stat().st_size > 10_000
        metrics |= json.loads((folder / "report" / name / "evaluation.json").read_text())["metrics"]["summary"]
        assert f"{name}: " in stdout
    assert metrics["AP50"] >= 0.8
    assert metrics["accuracy"] >= 0.9
    assert "batchtag run ./photos" in stderr


@pytest.mark.slow
def test_the_drawing_is_small_enough_for_a_readme(demo: tuple[Path, str, str]) -> None:
    folder, _, stderr = demo
    path = folder / "shelves.png"
    assert str(path) in stderr
    assert 20_000 < path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert 700 < image.width <= 1600

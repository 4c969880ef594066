"""Scenes as files: the ground truth agrees with the pixels that a reader gets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from batchtag.demo.scenes import BRANDS, SHAPES, draw_scene, read_true_inventory, write_crops, write_scenes

SEED, NUM_IMAGES = 2, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, num_images=NUM_IMAGES, seed=SEED, broken=True)
    return folder


@pytest.fixture(scope="module")
def ground_truth(folder: Path) -> dict[str, Any]:
    ground_truth: dict[str, Any] = json.loads((folder / "instances.json").read_text())
    return ground_truth


def test_displayed_images_have_the_size_of_the_ground_truth_and_the_drawn_pixels(
    folder: Path, ground_truth: dict[str, Any]
) -> None:
    for number, row in enumerate(ground_truth["images"]):
        with Image.open(folder / "images" / row["file_name"]) as stored:
            shown = ImageOps.exif_transpose(stored)
        assert (row["width"], row["height"]) == shown.size
        drawn = draw_scene(SEED, number).pixels
        assert np.abs(np.asarray(shown).astype(int) - drawn).mean() < 12, row["file_name"]


def test_some_images_are_stored_rotated_and_some_are_png(folder: Path) -> None:
    orientations, formats = Counter[int](), Counter[str | None]()
    for path in sorted((folder / "images").glob("shelf-*")):
        with Image.open(path) as image:
            orientations[image.getexif().get(0x0112, 1)] += 1
            formats[image.format] += 1
    assert set(orientations) == {1, 6, 8}
    assert set(formats) == {"JPEG", "PNG"}


def test_annotations_have_a_category_for_each_shape_and_the_brand_as_attribute(
    ground_truth: dict[str, Any],
) -> None:
    assert [category["name"] for category in ground_truth["categories"]] == [shape.name for shape in SHAPES]
    assert [category["id"] for category in ground_truth["categories"]] == [1, 2, 3, 4, 5, 6]
    ids = [each["id"] for each in ground_truth["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert {each["image_id"] for each in ground_truth["annotations"]} <= {row["id"] for row in ground_truth["images"]}
    for each in ground_truth["annotations"]:
        assert each["attributes"]["brand"] in {brand.name for brand in BRANDS}
        assert each["area"] == each["bbox"][2] * each["bbox"][3] > 0


def test_the_inventory_counts_what_was_drawn(folder: Path) -> None:
    drawn = Counter((obj.shape, obj.brand) for number in range(NUM_IMAGES) for obj in draw_scene(SEED, number).objects)
    assert read_true_inventory(folder) == drawn


def test_the_broken_files_cannot_be_opened_and_are_not_in_the_ground_truth(
    folder: Path, ground_truth: dict[str, Any]
) -> None:
    assert not {row["file_name"] for row in ground_truth["images"]} & {"cut-off.jpg", "not-an-image.jpg"}
    with Image.open(folder / "images" / "cut-off.jpg") as image, pytest.raises(OSError, match="truncated"):
        image.load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(folder / "images" / "not-an-image.jpg")


def test_the_first_images_do_not_depend_on_the_number_of_images(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, num_images=2, seed=SEED)
    for path in sorted((tmp_path / "images").iterdir()):
        assert path.read_bytes() == (folder / "images" / path.name).read_bytes()
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_second_call_removes_the_images_of_the_first(tmp_path: Path) -> None:
    write_scenes(tmp_path, num_images=3, seed=SEED)
    write_scenes(tmp_path, num_images=2, seed=SEED + 1)
    ground_truth = json.loads((tmp_path / "instances.json").read_text())
    names = {row["file_name"] for row in ground_truth["images"]}
    assert {path.name for path in (tmp_path / "images").iterdir()} == names


def test_there_is_one_crop_for_every_object_in_the_folder_of_its_brand(tmp_path: Path) -> None:
    write_crops(tmp_path, num_images=3, seed=SEED)
    objects = [obj for number in range(3) for obj in draw_scene(SEED, number).objects]
    found = {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()}
    assert found == Counter(obj.brand for obj in objects)


def test_a_crop_is_about_as_large_as_its_box(tmp_path: Path) -> None:
    write_crops(tmp_path, num_images=1, seed=SEED)
    for index, obj in enumerate(draw_scene(SEED, 0).objects):
        with Image.open(tmp_path / obj.brand / f"{obj.shape}-0000-{index:02d}.jpg") as crop:
            x_min, y_min, x_max, y_max = obj.box_xyxy
            assert crop.width == pytest.approx(x_max - x_min, rel=0.13, abs=2)
            assert crop.height == pytest.approx(y_max - y_min, rel=0.13, abs=2)

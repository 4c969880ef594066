"""Drawn scenes: reproducible, and with a correct ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from batchtag.demo.scenes import BRANDS, MIN_VISIBLE, SHAPES, Scene, draw_scene
from batchtag.errors import UsageError

SEED = 11


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(SEED, number) for number in range(16)]


def test_a_seed_and_a_number_always_give_the_same_image(scenes: list[Scene]) -> None:
    again = draw_scene(SEED, 9)
    assert np.array_equal(again.pixels, scenes[9].pixels)
    assert again.objects == scenes[9].objects


def test_another_seed_or_number_gives_another_image(scenes: list[Scene]) -> None:
    images = {scene.pixels.tobytes() for scene in (*scenes, draw_scene(SEED + 1, 0))}
    assert len(images) == len(scenes) + 1


def test_pixels_are_rgb_and_360_to_640_pixels_large(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width, channels = scene.pixels.shape
        assert scene.pixels.dtype == np.uint8
        assert channels == 3
        assert (min(height, width), max(height, width)) >= (360, 480)
        assert max(height, width) <= 640


def test_every_box_is_inside_the_image_and_not_empty(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.pixels.shape[:2]
        for obj in scene.objects:
            x_min, y_min, x_max, y_max = obj.box_xyxy
            assert 0 <= x_min < x_max <= width
            assert 0 <= y_min < y_max <= height


def test_mostly_hidden_products_are_not_objects(scenes: list[Scene]) -> None:
    shares = [obj.visible_share for scene in scenes for obj in scene.objects]
    assert min(shares) >= MIN_VISIBLE
    assert max(shares) == 1.0
    assert min(shares) < 0.9, "some must be partly hidden, or the scenes are too easy"


def test_every_brand_appears_in_every_shape() -> None:
    seen = {(obj.shape, obj.brand) for number in range(60) for obj in draw_scene(SEED, number).objects}
    assert seen == {(shape.name, brand.name) for shape in SHAPES for brand in BRANDS}


def test_boxes_contain_the_colours_of_their_brand() -> None:
    """The boxes of fenno, which is teal on grey, have far more teal than the rest of the image."""
    inside, outside = [], []
    for number in range(12):
        scene = draw_scene(SEED, number)
        red, green, blue = (scene.pixels[..., channel].astype(int) for channel in range(3))
        teal = (green - red > 40) & (blue - red > 30)
        elsewhere = np.ones(teal.shape, bool)
        for obj in scene.objects:
            x_min, y_min, x_max, y_max = map(int, obj.box_xyxy)
            elsewhere[y_min:y_max, x_min:x_max] = False
            if obj.brand == "fenno":
                inside.append(teal[y_min:y_max, x_min:x_max].mean())
        outside.append(teal[elsewhere].mean())
    assert np.mean(inside) > 0.1
    assert np.mean(inside) > 5 * np.mean(outside)


@pytest.mark.parametrize(("seed", "number"), [(-1, 0), (0, -1)])
def test_a_negative_seed_or_number_is_refused(seed: int, number: int) -> None:
    with pytest.raises(UsageError, match=rf"seed is {seed} and number is {number}; both must be 0 or more"):
        draw_scene(seed, number)

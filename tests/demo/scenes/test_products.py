"""Sprites, from which the true boxes are computed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from batchtag.demo.scenes.brands import BRANDS, draw_print_plates
from batchtag.demo.scenes.furniture import draw_empty_shelf
from batchtag.demo.scenes.products import Sprite, paint_product
from batchtag.demo.scenes.scene import _ground_truth, _owners, _shares
from batchtag.demo.scenes.shapes import SHAPES, Shape
from batchtag.demo.scenes.stocking import Placed, Product


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_product_touches_all_four_sides_of_its_sprite(shape: Shape) -> None:
    for seed, height in enumerate((40, 90, 140)):
        sprite = paint_product(shape, BRANDS[seed], height=height, rng=np.random.default_rng(seed))
        solid = np.asarray(sprite.mask) > 127
        assert sprite.height == height
        assert solid[0].any()
        assert solid[-1].any()
        assert np.flatnonzero(solid.any(axis=0))[0] <= 1
        assert np.flatnonzero(solid.any(axis=0))[-1] >= sprite.width - 2


def test_all_brands_have_different_prints_and_two_pairs_share_a_colour() -> None:
    plates = {brand.name: draw_print_plates(brand, "stacked") for brand in BRANDS}
    assert len({emblem.tobytes() for emblem, _ in plates.values()}) == len(BRANDS)
    assert len({word.tobytes() for _, word in plates.values()}) == len(BRANDS)
    assert len({brand.body for brand in BRANDS}) == len(BRANDS) - 2


@pytest.mark.parametrize("layout", ["stacked", "wide", "tall"])
def test_emblem_and_word_do_not_overlap_and_stay_inside_the_plate(layout: str) -> None:
    for brand in BRANDS:
        emblem, word = (np.asarray(plate) > 127 for plate in draw_print_plates(brand, layout))
        assert emblem.any()
        assert word.any()
        assert not (emblem & word).any()
        for plate in (emblem, word):
            assert not plate[0].any(), brand.name
            assert not plate[:, 0].any(), brand.name


@pytest.mark.parametrize("seed", range(8))
def test_a_shelf_has_two_to_four_boards_with_space_above_each(seed: int) -> None:
    shelf = draw_empty_shelf(640, 480, np.random.default_rng(seed))
    assert 2 <= len(shelf.boards_y) <= 4
    assert list(shelf.boards_y) == sorted(shelf.boards_y)
    assert all(0 < y < shelf.height for y in shelf.boards_y)
    assert shelf.clearance_px > 90


def _block(x: int, y: int, *, product: Product | None) -> Placed:
    """Return a solid square of 20 px."""
    solid = Sprite(pixels=Image.new("RGB", (20, 20)), mask=Image.new("L", (20, 20), 255))
    return Placed(sprite=solid, x=x, y=y, product=product)


def test_the_box_is_around_the_visible_part_and_the_share_excludes_hidden_and_cut_off_parts() -> None:
    can = Product(shape=SHAPES[1], brand=BRANDS[0])
    behind, cut_off = _block(10, 10, product=can), _block(-5, 50, product=can)
    pole = _block(25, 10, product=None)
    placed = [behind, cut_off, pole]
    owners = _owners(placed, 100, 80)
    assert _shares(placed, owners) == [0.75, 0.75, 1.0]
    assert [obj.box_xyxy for obj in _ground_truth(placed, owners)] == [
        (10, 10, 25, 30),
        (0, 50, 15, 70),
    ]

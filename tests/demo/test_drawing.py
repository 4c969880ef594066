"""The drawing of a demonstration: boxes and labels on two of its images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from batchtag.demo.drawing import FoundProduct, choose_images, draw_products, encode_png, join_side_by_side

TAGS = ["bottle", "can"]


def product(box_xyxy: tuple[float, float, float, float] = (40, 60, 100, 140), **facts: Any) -> FoundProduct:
    return FoundProduct(box_xyxy=box_xyxy, **{"tag": "can", "score": 0.9, "brand": "tavo", **facts})


def test_a_box_is_drawn_in_the_colour_of_its_tag_at_the_scale_of_the_result() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    can = draw_products(grey, [product()], tags=TAGS, width=600)
    bottle = draw_products(grey, [product(tag="bottle")], tags=TAGS, width=600)
    assert can.shape == (400, 600, 3)
    assert can[200, 80].tolist() != bottle[200, 80].tolist()  # the left edge of the box, at twice the scale
    assert can[240, 150].tolist() == [128, 128, 128]  # inside the box
    assert (grey == 128).all()


def test_labels_never_cover_each_other_and_stay_inside_the_image() -> None:
    """A label is a filled rectangle, so the number of coloured pixels is the sum of the labels."""
    black = np.zeros((200, 300, 3), np.uint8)

    def num_label_pixels(*products: FoundProduct) -> int:
        with_labels = draw_products(black, products, tags=TAGS, width=300).astype(int)
        return int((with_labels.sum(axis=2) > 250).sum())

    left, right = product((60, 80, 130, 120)), product((62, 82, 132, 122), tag="bottle")
    corner = product((0, 0, 70, 50))
    assert num_label_pixels(left, right) > 1.6 * num_label_pixels(left)
    assert num_label_pixels(corner) > 0.9 * num_label_pixels(left)


def test_the_chosen_images_have_one_shape_and_the_most_different_products() -> None:
    products = {
        "varied.jpg": [product(tag=tag, brand=brand) for tag in TAGS for brand in ("tavo", "nubi")],
        "same.jpg": [product()] * 4,
        "doubtful.jpg": [product(tag=tag, score=0.3) for tag in TAGS],
        "two-kinds.jpg": [product(tag=tag) for tag in TAGS],
        "crowded.jpg": [product(brand=f"brand {number}") for number in range(30)],
        "portrait.jpg": [product(brand=f"brand {number}") for number in range(9)],
        "empty.jpg": [],
    }
    sizes = dict.fromkeys(products, (640, 480)) | {"portrait.jpg": (480, 640)}
    assert choose_images(products, sizes=sizes) == ["varied.jpg", "two-kinds.jpg"]
    assert choose_images({"portrait.jpg": products["portrait.jpg"]}, sizes=sizes) == ["portrait.jpg"]
    assert choose_images({"empty.jpg": []}, sizes=sizes) == []


def test_images_are_joined_from_left_to_right() -> None:
    high, low = np.zeros((30, 20, 3), np.uint8), np.full((10, 40, 3), 7, np.uint8)
    joined = join_side_by_side([high, low])
    assert joined.shape == (30, 20 + 12 + 40, 3)
    assert (joined[:10, 32:] == 7).all()
    assert (joined[10:, 32:] == 255).all()


def test_a_large_png_gets_fewer_colours_until_it_is_small_enough() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    large, small = encode_png(noise, max_bytes=10**6), encode_png(noise, max_bytes=4000)
    assert len(small) <= 4000 < len(large)
    with Image.open(io.BytesIO(large)) as image:
        assert (image.format, image.size) == ("PNG", (80, 60))

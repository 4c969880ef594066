"""Scenes as files: images with their ground truth as COCO JSON, and crops in a folder for each brand.

The files vary as in a real bucket: JPEG of several qualities, some PNG, some stored rotated with an EXIF orientation.
The ground truth is in pixels of the displayed image, which is what our decoder returns.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from batchtag.demo.scenes.scene import Scene, draw_scene
from batchtag.demo.scenes.shapes import SHAPES

INSTANCES = "instances.json"
IMAGES = "images"
_ORIENTATION = 0x0112
_STORED_ROTATION = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def write_scenes(folder: Path, *, num_images: int, seed: int, broken: bool = False) -> None:
    """Write scenes 0 to `num_images` - 1 of `seed` into `folder`/images, and their ground truth into
    `folder`/instances.json.

    The COCO file has one category for each shape, with ids from 1. Each annotation has its brand and its visible share
    in `attributes`. `broken` adds two files that cannot be decoded and are not in the ground truth: cut-off.jpg and
    not-an-image.jpg. Scenes of an earlier call are removed, so that images and ground truth belong together.
    """
    images_folder = folder / IMAGES
    images_folder.mkdir(parents=True, exist_ok=True)
    for earlier_image in images_folder.glob("shelf-[0-9]*.*"):
        earlier_image.unlink()
    ids = {shape.name: number for number, shape in enumerate(SHAPES, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(num_images):
        scene = draw_scene(seed, number)
        name = _save(scene, images_folder, number, np.random.default_rng([seed, number, 1]))
        high, wide = scene.pixels.shape[:2]
        images.append({"id": number + 1, "file_name": name, "width": wide, "height": high})
        annotations.extend(_annotations(scene, image_id=number + 1, first_id=len(annotations) + 1, ids=ids))
    categories = [{"id": number, "name": name, "supercategory": "product"} for name, number in ids.items()]
    ground_truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / INSTANCES).write_text(json.dumps(ground_truth))
    if broken:
        _save_broken(images_folder, draw_scene(seed, num_images))


def write_crops(folder: Path, *, num_images: int, seed: int) -> None:
    """Write every product of scenes 0 to `num_images` - 1 of `seed` as a JPEG crop into `folder`/<brand>/.

    Each edge of the true box is moved by up to 6 % of its side, because a detector's boxes are not exact either. Use a
    new folder, because crops of earlier calls are not removed.
    """
    for number in range(num_images):
        scene, rng = draw_scene(seed, number), np.random.default_rng([seed, number, 2])
        image = Image.fromarray(scene.pixels)
        for index, obj in enumerate(scene.objects):
            brand_folder = folder / obj.brand
            brand_folder.mkdir(parents=True, exist_ok=True)
            crop = image.crop(_move_edges(obj.box_xyxy, image.size, rng))
            crop.save(brand_folder / f"{obj.shape}-{number:04d}-{index:02d}.jpg", quality=int(rng.integers(70, 95)))


def read_true_inventory(folder: Path) -> Counter[tuple[str, str]]:
    """Count the products of each (shape, brand) on the images that `write_scenes` wrote to `folder`."""
    ground_truth = json.loads((folder / INSTANCES).read_text())
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    return Counter((names[row["category_id"]], row["attributes"]["brand"]) for row in ground_truth["annotations"])


def _move_edges(
    box_xyxy: tuple[float, float, float, float], size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    x_min, y_min, x_max, y_max = box_xyxy
    by_x, by_y = (x_max - x_min) * rng.uniform(-0.06, 0.06, 2), (y_max - y_min) * rng.uniform(-0.06, 0.06, 2)
    left, top = max(0, round(x_min + by_x[0])), max(0, round(y_min + by_y[0]))
    return left, top, min(size[0], round(x_max + by_x[1])), min(size[1], round(y_max + by_y[1]))


def _annotations(scene: Scene, *, image_id: int, first_id: int, ids: dict[str, int]) -> list[dict[str, Any]]:
    rows = []
    for offset, obj in enumerate(scene.objects):
        x_min, y_min, x_max, y_max = obj.box_xyxy
        wide, high = x_max - x_min, y_max - y_min
        rows.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": ids[obj.shape],
                "bbox": [x_min, y_min, wide, high],
                "area": wide * high,
                "iscrowd": 0,
                "attributes": {"brand": obj.brand, "visible_share": round(obj.visible_share, 3)},
            }
        )
    return rows


def _save(scene: Scene, images: Path, number: int, rng: np.random.Generator) -> str:
    """Save an image and return its file name: one in sixteen is a PNG, one in eight a rotated JPEG, others JPEG."""
    image, kind, quality = Image.fromarray(scene.pixels), rng.random(), int(rng.integers(60, 93))
    name = f"shelf-{number:04d}.jpg"
    if kind < 1 / 16:
        name = f"shelf-{number:04d}.png"
        image.save(images / name, compress_level=1)
    elif kind < 3 / 16:
        orientation = 6 if rng.random() < 0.5 else 8
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        image.transpose(_STORED_ROTATION[orientation]).save(images / name, quality=quality, exif=exif)
    else:
        image.save(images / name, quality=quality)
    return name


def _save_broken(images: Path, scene: Scene) -> None:
    cut_off = images / "cut-off.jpg"
    Image.fromarray(scene.pixels).save(cut_off, quality=90)
    whole = cut_off.read_bytes()
    cut_off.write_bytes(whole[: len(whole) // 2])
    (images / "not-an-image.jpg").write_text("<html>503 Service Unavailable</html>")

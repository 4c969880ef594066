"""COCO's JSON: images, categories and boxes in one file.

The fields mean what stock pycocotools makes of them, because published figures come from it: `bbox` is (x, y, width,
height), `area` is the area of the segmentation and decides the size class, `iscrowd` objects count neither as found nor
as missed, and `ignore` has no effect (COCOeval._prepare of pycocotools 2.0.11 overwrites it with `iscrowd`). Category
ids have gaps, so labels are the names of the categories in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchtag.config.dataset import CocoData
from batchtag.datasets.annotations import AnnotatedImage, Box, ParsedAnnotations, box_area, parse_numbers
from batchtag.datasets.base import Problem
from batchtag.datasets.files import decode_text, parent_folder, read_file, resolve_name
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri

Record = Mapping[str, Any]

_SECTIONS = ("images", "annotations", "categories")
_ID_KEYS = ("id", "image_id", "category_id")


def read_coco(spec: CocoData) -> ParsedAnnotations:
    """Read every image of the file, also those without boxes. Raises UsageError for a file that is not COCO's."""
    uri = absolute_uri(spec.uri)
    images, annotations, categories = _parse_sections(uri, read_file(uri, spec.storage_options))
    folder = absolute_uri(spec.images) if spec.images else parent_folder(uri)
    category_names = {category.get("id"): str(category.get("name") or "") for category in categories}
    problems = _repeated_id_problems(images, uri)
    annotations_by_image: dict[Any, list[Record]] = {image.get("id"): [] for image in images}
    for annotation in annotations:
        image_id = annotation.get("image_id")
        if image_id in annotations_by_image:
            annotations_by_image[image_id].append(annotation)
        else:
            detail = f"{_describe(annotation)} is of image {image_id!r}, which `images` does not list"
            problems.append(Problem(kind="unreadable", uri=uri, detail=detail))
    unique_images = list({image.get("id"): image for image in images}.values())
    parsed_images = []
    for image in unique_images[: spec.limit]:
        parsed, image_problems = _parse_image(
            image, annotations_by_image[image.get("id")], category_names=category_names, folder=folder, uri=uri
        )
        parsed_images.append(parsed)
        problems += image_problems
    labels = list(dict.fromkeys(name for name in category_names.values() if name))
    return ParsedAnnotations(task="detect", images=parsed_images, problems=problems, labels=labels)


def _parse_sections(uri: str, data: bytes) -> list[list[Record]]:
    """Return images, annotations and categories. Raises UsageError that lists what the file has instead."""
    try:
        content = json.loads(decode_text(data, uri=uri))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{uri}: is not JSON: {error}") from error
    keys = sorted(content) if isinstance(content, dict) else [f"a {type(content).__name__}"]
    missing = [name for name in _SECTIONS if not isinstance(content, dict) or not _is_record_list(content.get(name))]
    if missing:
        raise UsageError(
            f"{uri}: is not a COCO file of labelled images: no list of objects at {', '.join(map(repr, missing))}; it "
            f"has {', '.join(map(repr, keys[:10])) or 'nothing'}. (A file of results is not a ground truth)"
        )
    return [content[name] for name in _SECTIONS]


def _is_record_list(value: Any) -> bool:
    """Return whether a value is a list of JSON objects whose ids are hashable."""
    return isinstance(value, list) and all(
        isinstance(record, dict) and not any(isinstance(record.get(key), list | dict) for key in _ID_KEYS)
        for record in value
    )


def _repeated_id_problems(images: list[Record], uri: str) -> list[Problem]:
    image_by_id: dict[Any, Record] = {}
    problems = []
    for image in images:
        image_id, name = image.get("id"), image.get("file_name")
        if image_id in image_by_id:
            other = image_by_id[image_id].get("file_name")
            detail = f"{name!r}: its image id {image_id!r} is also that of {other!r}"
            problems.append(Problem(kind="unreadable", uri=uri, detail=detail))
        image_by_id[image_id] = image
    return problems


def _parse_image(
    image: Record, annotations: list[Record], *, category_names: Mapping[Any, str], folder: str, uri: str
) -> tuple[AnnotatedImage, list[Problem]]:
    image_uri = resolve_name(str(image.get("file_name") or image.get("id")), folder=folder)
    problems, objects = [], []
    for annotation in annotations:
        try:
            objects.append(_parse_object(annotation, category_names))
        except ValueError as error:
            detail = f"{_describe(annotation)} of {image.get('file_name')!r}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=detail))
    class_names, boxes, areas, is_crowd = zip(*objects, strict=True) if objects else ((), (), (), ())
    parsed = AnnotatedImage(
        uri=image_uri,
        class_names=class_names,
        boxes=boxes,
        areas=areas,
        is_crowd=is_crowd,
        width=_parse_side(image.get("width")),
        height=_parse_side(image.get("height")),
        image_id=str(image.get("id", "")),
        annotation_uri=uri,
    )
    return parsed, problems


def _parse_object(annotation: Record, category_names: Mapping[Any, str]) -> tuple[str, Box, float, bool]:
    """Return class name, box, area, and whether it is a crowd. Raises ValueError for an invalid annotation."""
    category, bbox = annotation.get("category_id"), annotation.get("bbox")
    if not category_names.get(category):
        raise ValueError(f"its category_id is {category!r}, which `categories` does not name")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"its bbox is {str(bbox)[:40]}; it must be [x, y, width, height]")
    x, y, width, height = parse_numbers(bbox)
    box = (x, y, x + width, y + height)
    area = annotation.get("area")
    area_px2 = box_area(box) if area is None else parse_numbers([area])[0]
    return category_names[category], box, area_px2, bool(annotation.get("iscrowd"))


def _describe(annotation: Record) -> str:
    return f"annotation {annotation.get('id')!r}"


def _parse_side(value: Any) -> int:
    """Return a width or height in pixels; 0 if the file does not have it."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0

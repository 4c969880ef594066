"""COCO's JSON: images, categories and boxes in one file.

Numbers mean what stock pycocotools makes of them, because published figures are its: `bbox` is (x, y, width, height),
`area` is the segmentation's and decides the size class, `iscrowd` is neither found nor missed, and `ignore` is read by
nobody (COCOeval._prepare of pycocotools 2.0.11 overwrites it with `iscrowd`). Category ids have gaps, so labels are the
categories' names in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchtag.config.dataset import CocoData
from batchtag.datasets.base import Annotated, Box, Found, Problem, area_of, finite
from batchtag.datasets.files import folder_of, read_file, text_of, within
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri

Record = Mapping[str, Any]

_IDS = ("id", "image_id", "category_id")


def read_coco(spec: CocoData) -> Found:
    """Every image that the file lists, those without boxes too. Raises UsageError for a file that is not COCO's."""
    uri = absolute_uri(spec.uri)
    images, annotations, categories = _sections(uri, read_file(uri, spec.storage_options))
    folder = absolute_uri(spec.images) if spec.images else folder_of(uri)
    names = {category.get("id"): str(category.get("name") or "") for category in categories}
    problems = _repeated(images, uri)
    by_id: dict[Any, list[Record]] = {image.get("id"): [] for image in images}
    for annotation in annotations:
        if annotation.get("image_id") in by_id:
            by_id[annotation["image_id"]].append(annotation)
        else:
            what = f"{_called(annotation)} is of image {annotation.get('image_id')!r}, which `images` does not list"
            problems.append(Problem(kind="unreadable", uri=uri, detail=what))
    annotated = []
    for image in list({image.get("id"): image for image in images}.values())[: spec.limit]:
        one, its_problems = _image(image, by_id[image.get("id")], names=names, folder=folder, uri=uri)
        annotated.append(one)
        problems += its_problems
    labels = list(dict.fromkeys(name for name in names.values() if name))
    return Found(task="detect", images=annotated, problems=problems, labels=labels)


def _sections(uri: str, data: bytes) -> list[list[Record]]:
    """Images, annotations, categories."""
    try:
        content = json.loads(text_of(data, uri=uri))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{uri}: is not JSON: {error}") from error
    there = sorted(content) if isinstance(content, dict) else [f"a {type(content).__name__}"]
    wanted = ("images", "annotations", "categories")
    missing = [name for name in wanted if not isinstance(content, dict) or not _is_records(content.get(name))]
    if missing:
        listed = ", ".join(map(repr, missing))
        raise UsageError(
            f"{uri}: is not a COCO file of labelled images: no list of objects at {listed}; it has "
            f"{', '.join(map(repr, there[:10])) or 'nothing'}. (A file of results is no truth)"
        )
    return [content[name] for name in wanted]


def _is_records(value: Any) -> bool:
    """Whether it is a list of objects, and all ids in them can be looked up."""
    return isinstance(value, list) and all(
        isinstance(one, dict) and not any(isinstance(one.get(key), list | dict) for key in _IDS) for one in value
    )


def _repeated(images: list[Record], uri: str) -> list[Problem]:
    seen: dict[Any, Record] = {}
    problems = []
    for image in images:
        if image.get("id") in seen:
            what = f"image id {image.get('id')!r} is that of {seen[image.get('id')].get('file_name')!r} too"
            problems.append(Problem(kind="unreadable", uri=uri, detail=f"{image.get('file_name')!r}: its {what}"))
        seen[image.get("id")] = image
    return problems


def _image(
    image: Record, annotations: list[Record], *, names: Mapping[Any, str], folder: str, uri: str
) -> tuple[Annotated, list[Problem]]:
    image_uri = within(str(image.get("file_name") or image.get("id")), folder=folder)
    problems, kept = [], []
    for annotation in annotations:
        try:
            kept.append(_object(annotation, names))
        except ValueError as error:
            what = f"{_called(annotation)} of {image.get('file_name')!r}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=what))
    labels, boxes, areas, crowds = zip(*kept, strict=True) if kept else ((), (), (), ())
    one = Annotated(
        uri=image_uri,
        names=labels,
        boxes=boxes,
        areas=areas,
        crowds=crowds,
        width=_side(image.get("width")),
        height=_side(image.get("height")),
        image_id=str(image.get("id", "")),
        source=uri,
    )
    return one, problems


def _object(annotation: Record, names: Mapping[Any, str]) -> tuple[str, Box, float, bool]:
    """Label, box, area, whether it is a crowd. Raises ValueError saying what makes no sense."""
    category, bbox = annotation.get("category_id"), annotation.get("bbox")
    if not names.get(category):
        raise ValueError(f"its category_id is {category!r}, which `categories` does not name")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError(f"its bbox is {str(bbox)[:40]}; it must be [x, y, width, height]")
    x, y, width, height = finite(bbox)
    box = (x, y, x + width, y + height)
    area = annotation.get("area")
    return names[category], box, area_of(box) if area is None else finite([area])[0], bool(annotation.get("iscrowd"))


def _called(annotation: Record) -> str:
    return f"annotation {annotation.get('id')!r}"


def _side(value: Any) -> int:
    """A width or height in pixels; 0 if the file does not say it."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0

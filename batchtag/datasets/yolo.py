"""YOLO's text files: a line for each object, `class centre_x centre_y width height`, as fractions of the image.

The fractions are of the displayed image, as Ultralytics loads it (upright by EXIF), so they become pixels only when
`check` has opened it. A line of a class and three or more points is a segment's, and its box is the one around it, as
Ultralytics takes it. An image without a text file, or with an empty one, is an image of nothing: a background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from batchtag.config.dataset import YoloData
from batchtag.datasets.base import Annotated, Box, Found, Problem, finite
from batchtag.datasets.files import (
    as_folder,
    is_image,
    lines_of,
    names_if_there,
    names_under,
    read_file,
    read_files,
    text_of,
)
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri


def read_yolo(spec: YoloData) -> Found:
    """Every image of the folder. Raises UsageError if none of them has a text file, or the classes are not told."""
    folder, options = absolute_uri(spec.images), spec.storage_options
    classes = _classes(spec)
    images = [join_uri(folder, name) for name in names_under(folder, options) if is_image(name)]
    texts, folders, there = _texts(spec, images)
    mine = dict(zip(images, texts, strict=True))
    if not there.intersection(texts):
        raise UsageError(
            f"{folder}: none of its {len(images):,} images has a text file of labels in {' or '.join(folders)}; "
            "say where they are as data.labels"
        )
    problems = list(_lonely(sorted(there.difference(texts)), options))
    images = images[: spec.limit]
    uris = [mine[image] for image in images if mine[image] in there]
    contents = dict(zip(uris, read_files(uris, options), strict=True))
    found = []
    for image in images:
        uri = mine[image]
        one, its_problems = _image(contents.get(uri, b""), uri=uri, image=image, classes=classes)
        found.append(one)
        problems += its_problems
    labels = list(dict.fromkeys(classes.values()))
    return Found(task="detect", images=found, problems=problems, labels=labels, boxes_are_fractions=True)


def _texts(spec: YoloData, images: Sequence[str]) -> tuple[list[str], list[str], set[str]]:
    """The URI of each image's text file, the folders where they may lie, and all that lies there."""
    images_folder = as_folder(absolute_uri(spec.images))
    if spec.labels:
        folders = [as_folder(absolute_uri(spec.labels))]
        texts = [_as_text(folders[0] + image[len(images_folder) :]) for image in images]
        return texts, folders, _files_in(folders, spec)
    folders = list(dict.fromkeys([images_folder, _swapped(images_folder)]))
    there = _files_in(folders, spec)
    swapped = [_as_text(_swapped(image)) for image in images]
    return (swapped if there.intersection(swapped) else [_as_text(one) for one in images]), folders, there


def _files_in(folders: Sequence[str], spec: YoloData) -> set[str]:
    return {folder + name for folder in folders for name in names_if_there(folder, spec.storage_options)}


def _swapped(uri: str) -> str:
    """Ultralytics' rule (`img2label_paths`): the last `/images/` becomes `/labels/`."""
    return "/labels/".join(uri.rsplit("/images/", 1))


def _as_text(uri: str) -> str:
    return f"{uri.rpartition('.')[0]}.txt"


def _classes(spec: YoloData) -> dict[int, str]:
    """Names by class number."""
    if isinstance(spec.names, list):
        return dict(enumerate(spec.names))
    uri = absolute_uri(spec.names)
    if uri.lower().endswith((".yaml", ".yml")):
        return classes_of_yaml(uri, spec.storage_options)
    return dict(enumerate(lines_of(uri, spec.storage_options)))


def classes_of_yaml(uri: str, options: Mapping[str, Any]) -> dict[int, str]:
    """Class names by number, from the `names` of a data.yaml. Raises UsageError if it has none."""
    names = yaml_of(uri, options).get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise UsageError(f"{uri}: its `names` are not a list of class names, nor names by number")
    return {number: str(names[number]) for number in sorted(names)}


def yaml_of(uri: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a data.yaml says. Raises UsageError if it is not a mapping."""
    try:
        content = yaml.safe_load(text_of(read_file(uri, options), uri=uri))
    except yaml.YAMLError as error:
        raise UsageError(f"{uri}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{uri}: holds no names with values; a data.yaml has at least `names`")
    return content


def _lonely(uris: Sequence[str], options: Mapping[str, Any]) -> Iterator[Problem]:
    """Text files of labels without an image. Lists of classes and of images, and notes, are none."""
    texts = [uri for uri in uris if uri.endswith(".txt")]
    for uri, data in zip(texts, read_files(texts, options), strict=True):
        objects = [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
        if objects and all(_is_object(line) for line in objects):
            yield Problem(
                kind="missing_image",
                uri=uri,
                detail=f"is of an image that is not there (lines of labels: {len(objects)})",
            )


def _is_object(line: str) -> bool:
    try:
        _box(line.split()[1:])
    except ValueError:
        return False
    return True


def _image(data: bytes, *, uri: str, image: str, classes: Mapping[int, str]) -> tuple[Annotated, list[Problem]]:
    problems, names, boxes = [], [], []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            box = _box(words[1:])
            class_number = finite(words[:1])[0]
            if class_number != int(class_number):
                raise ValueError(f"{words[0]!r} is not the number of a class")
        except ValueError as error:
            what = f"line {number}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image, detail=what))
            continue
        names.append(classes.get(int(class_number), f"number {int(class_number)}"))
        boxes.append(box)
    return Annotated(uri=image, names=names, boxes=boxes, source=uri), problems


def _box(words: Sequence[str]) -> Box:
    """The box of a line without its class, as fractions. Raises ValueError saying what makes no sense."""
    numbers = finite(words)
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    raise ValueError(f"{len(numbers)} numbers behind the class; they must be 4 (centre and size) or 3 and more points")

"""YOLO's text files: one line for each object, `class centre_x centre_y width height`, as fractions of the image.

The fractions are of the displayed image, as Ultralytics loads it (upright by EXIF), so they become pixels only when
`validate` has opened the image. A line with a class and three or more points is a segment; its box is the one around
it, as in Ultralytics. An image without a text file, or with an empty one, is a background image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from batchtag.config.dataset import YoloData
from batchtag.datasets.annotations import AnnotatedImage, Box, ParsedAnnotations, parse_numbers
from batchtag.datasets.base import Problem
from batchtag.datasets.files import (
    decode_text,
    is_image_name,
    list_names,
    list_names_if_exists,
    read_file,
    read_files,
    read_lines,
    with_slash,
)
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri


def read_yolo(spec: YoloData) -> ParsedAnnotations:
    """Read every image of the folder. Raises UsageError if no image has a text file, or the classes are unknown."""
    folder, options = absolute_uri(spec.images), spec.storage_options
    class_names = _read_class_list(spec)
    image_uris = [join_uri(folder, name) for name in list_names(folder, options) if is_image_name(name)]
    text_uris, text_folders, existing = _find_text_files(spec, image_uris)
    if not existing.intersection(text_uris):
        raise UsageError(
            f"{folder}: none of its {len(image_uris):,} images has a text file of labels in "
            f"{' or '.join(text_folders)}; set data.labels to the folder of the text files"
        )
    problems = list(_missing_image_problems(sorted(existing.difference(text_uris)), options))
    pairs = list(zip(image_uris, text_uris, strict=True))[: spec.limit]
    to_read = [text_uri for _, text_uri in pairs if text_uri in existing]
    contents = dict(zip(to_read, read_files(to_read, options), strict=True))
    images = []
    for image_uri, text_uri in pairs:
        data = contents.get(text_uri, b"")
        image, image_problems = _parse_image(data, uri=text_uri, image_uri=image_uri, class_names=class_names)
        images.append(image)
        problems += image_problems
    labels = list(dict.fromkeys(class_names.values()))
    return ParsedAnnotations(task="detect", images=images, problems=problems, labels=labels, boxes_are_fractions=True)


def _find_text_files(spec: YoloData, image_uris: Sequence[str]) -> tuple[list[str], list[str], set[str]]:
    """Return the URI of each image's text file, the folders that may contain them, and all files in those folders."""
    image_folder = with_slash(absolute_uri(spec.images))
    if spec.labels:
        folders = [with_slash(absolute_uri(spec.labels))]
        text_uris = [_text_name(folders[0] + uri[len(image_folder) :]) for uri in image_uris]
        return text_uris, folders, _list_files(folders, spec)
    folders = list(dict.fromkeys([image_folder, _images_to_labels(image_folder)]))
    existing = _list_files(folders, spec)
    in_labels = [_text_name(_images_to_labels(uri)) for uri in image_uris]
    if existing.intersection(in_labels):
        return in_labels, folders, existing
    return [_text_name(uri) for uri in image_uris], folders, existing


def _list_files(folders: Sequence[str], spec: YoloData) -> set[str]:
    return {folder + name for folder in folders for name in list_names_if_exists(folder, spec.storage_options)}


def _images_to_labels(uri: str) -> str:
    """Replace the last `/images/` by `/labels/`, which is Ultralytics' rule (`img2label_paths`)."""
    return "/labels/".join(uri.rsplit("/images/", 1))


def _text_name(uri: str) -> str:
    return f"{uri.rpartition('.')[0]}.txt"


def _read_class_list(spec: YoloData) -> dict[int, str]:
    """Return class names by class number, from the job or from the file that it names."""
    if isinstance(spec.names, list):
        return dict(enumerate(spec.names))
    uri = absolute_uri(spec.names)
    if uri.lower().endswith((".yaml", ".yml")):
        return read_class_names(uri, spec.storage_options)
    return dict(enumerate(read_lines(uri, spec.storage_options)))


def read_class_names(uri: str, options: Mapping[str, Any]) -> dict[int, str]:
    """Return the class names by number from the `names` of a data.yaml. Raises UsageError if it has none."""
    names = read_yaml(uri, options).get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise UsageError(f"{uri}: its `names` must be a list of class names, or class names by number")
    return {number: str(names[number]) for number in sorted(names)}


def read_yaml(uri: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a data.yaml. Raises UsageError if it is not a mapping."""
    try:
        content = yaml.safe_load(decode_text(read_file(uri, options), uri=uri))
    except yaml.YAMLError as error:
        raise UsageError(f"{uri}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{uri}: is not a mapping of names to values; a data.yaml has at least `names`")
    return content


def _missing_image_problems(uris: Sequence[str], options: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each text file of labels without an image. Text files of other content are skipped."""
    text_uris = [uri for uri in uris if uri.endswith(".txt")]
    for uri, data in zip(text_uris, read_files(text_uris, options), strict=True):
        lines = [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
        if lines and all(_is_object_line(line) for line in lines):
            yield Problem(
                kind="missing_image",
                uri=uri,
                detail=f"its image does not exist (lines of labels: {len(lines)})",
            )


def _is_object_line(line: str) -> bool:
    try:
        _parse_box(line.split()[1:])
    except ValueError:
        return False
    return True


def _parse_image(
    data: bytes, *, uri: str, image_uri: str, class_names: Mapping[int, str]
) -> tuple[AnnotatedImage, list[Problem]]:
    problems, object_names, boxes = [], [], []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            box = _parse_box(words[1:])
            class_number = parse_numbers(words[:1])[0]
            if class_number != int(class_number):
                raise ValueError(f"{words[0]!r} is not the number of a class")
        except ValueError as error:
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=f"line {number}: {error}"))
            continue
        object_names.append(class_names.get(int(class_number), f"number {int(class_number)}"))
        boxes.append(box)
    return AnnotatedImage(uri=image_uri, class_names=object_names, boxes=boxes, annotation_uri=uri), problems


def _parse_box(words: Sequence[str]) -> Box:
    """Return the box of a line without its class, as fractions. Raises ValueError for an invalid line."""
    numbers = parse_numbers(words)
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    raise ValueError(
        f"{len(numbers)} numbers after the class; there must be 4 (centre and size), or 2 for each of 3 or more points"
    )

"""Detect the format of labelled data from a URI alone, for a command line without a job file.

Names decide, together with two facts inside files: whether a YAML file has class names, and whether a JSON file has
annotations. Where they leave the format open, the error says what was found and how to name the format; the module does
not guess, because wrong labels are worse than none.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from batchtag.config.dataset import CocoData, DatasetSpec, FolderData, TableData, VocData, YoloData
from batchtag.datasets.files import (
    TABLE_EXTENSIONS,
    file_stem,
    is_image_name,
    list_names_if_exists,
    parent_folder,
    read_file,
    with_slash,
)
from batchtag.datasets.yolo import read_class_names, read_yaml
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri

_COCO_IMAGE_FOLDERS = ("images", "pictures")
"""Usual names of the folder with COCO's images, beside the JSON file. `pictures` is what batchtag 0.1 wrote."""
_VOC_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
"""Usual names of the folder with VOC's images, beside the folder of the XML files."""


def detect_dataset(uri: str, *, storage_options: Mapping[str, Any] | None = None) -> DatasetSpec:
    """Return the spec of the data at `uri`: a file (.json, data.yaml, a table) or a folder.

    Raises UsageError that says what was found if the format is not clear, StorageError if `uri` cannot be read.
    """
    options = dict(storage_options or {})
    uri = absolute_uri(uri)
    lower_uri = uri.lower()
    if lower_uri.endswith(".json"):
        return _coco_spec(uri, options)
    if lower_uri.endswith(TABLE_EXTENSIONS):
        return TableData(uri=uri, storage_options=options)
    if lower_uri.endswith((".yaml", ".yml")):
        return _yolo_spec(uri, options)
    names = list_names_if_exists(uri, options)
    if not names:
        raise UsageError(
            f"{uri}: does not exist, or is empty; --data takes a folder, a .json of COCO, a data.yaml or a table"
        )
    spec = _detect_in_folder(uri, names, options)
    if spec is None:
        raise UsageError(_unclear_format(uri, names))
    return spec


def _detect_in_folder(uri: str, names: Sequence[str], options: dict[str, Any]) -> DatasetSpec | None:
    """Return the spec of a folder, None if its names fit no format. The first rule that matches wins."""
    top_names = [name for name in names if "/" not in name]
    yaml_uris = [join_uri(uri, name) for name in top_names if name.lower().endswith((".yaml", ".yml"))]
    for yaml_uri in sorted(yaml_uris, key=lambda yaml: not yaml.endswith("/data.yaml")):
        if "names" in read_yaml(yaml_uri, options):
            return _yolo_spec(yaml_uri, options)
    if any(name.lower().endswith(".xml") for name in names):
        return _voc_spec(uri, names, options)
    json_names = [name for name in top_names if name.lower().endswith(".json")]
    if len(json_names) == 1 and b'"annotations"' in read_file(join_uri(uri, json_names[0]), options):
        return _coco_spec(join_uri(uri, json_names[0]), options)
    image_stems = {file_stem(name) for name in names if is_image_name(name)}
    if any(name.endswith(".txt") and file_stem(name) in image_stems for name in names):
        return None  # YOLO without its class names
    if any("/" in name and is_image_name(name) for name in names):
        return FolderData(uri=uri, storage_options=options)
    table_names = [name for name in top_names if name.lower().endswith(TABLE_EXTENSIONS)]
    return TableData(uri=join_uri(uri, table_names[0]), storage_options=options) if len(table_names) == 1 else None


def _coco_spec(uri: str, options: dict[str, Any]) -> CocoData:
    """Return the spec of a COCO file; its images are beside it, or in a folder `images` (or `pictures`) beside it."""
    folder = parent_folder(uri)
    if not _contains_images(folder, options):
        candidates = [join_uri(folder, name) for name in _COCO_IMAGE_FOLDERS]
        folder = next((one for one in candidates if list_names_if_exists(one, options)), folder)
    return CocoData(uri=uri, images=folder, storage_options=options)


def _contains_images(folder: str, options: dict[str, Any]) -> bool:
    return any(is_image_name(name) and "/" not in name for name in list_names_if_exists(folder, options))


def _voc_spec(uri: str, names: Sequence[str], options: dict[str, Any]) -> VocData | None:
    """Return the spec if all XML files are in one folder and all images in one, which may be a sibling of `uri`."""
    xml_folders = {name.rpartition("/")[0] for name in names if name.lower().endswith(".xml")}
    image_folders = {name.rpartition("/")[0] for name in names if is_image_name(name)}
    if len(xml_folders) == 1 and len(image_folders) == 1:
        xml_uri, image_uri = (join_uri(uri, path) if path else uri for path in (*xml_folders, *image_folders))
        return VocData(annotations=xml_uri, images=image_uri, storage_options=options)
    if xml_folders == {""} and not image_folders:
        parent = parent_folder(uri.removesuffix("/"))
        siblings = [join_uri(parent, name) for name in _VOC_IMAGE_FOLDERS]
        sibling = next((one for one in siblings if list_names_if_exists(one, options)), None)
        return VocData(annotations=uri, images=sibling, storage_options=options) if sibling else None
    return None


def _yolo_spec(uri: str, options: dict[str, Any]) -> YoloData:
    """Return the spec of a data.yaml, with the images of `val` if it has some, else of `test`, else of `train`."""
    read_class_names(uri, options)
    content = read_yaml(uri, options)
    root = _resolve_path(parent_folder(uri), content.get("path"))
    paths = [path for split in ("val", "test", "train") if isinstance(path := content.get(split), str) and path]
    folders = [_resolve_path(root, path) for path in paths]
    # Roboflow writes ../valid/images, relative to a folder that does not exist.
    folders += [_resolve_path(root, path.removeprefix("../")) for path in paths]
    folders += [join_uri(parent_folder(uri), "images"), parent_folder(uri)]
    images = next((one for one in folders if any(map(is_image_name, list_names_if_exists(one, options)))), None)
    if images is None:
        raise UsageError(f"{uri}: no images in any of {', '.join(dict.fromkeys(folders))}; correct its `val`")
    return YoloData(images=images, names=uri, storage_options=options)


def _resolve_path(folder: str, path: Any) -> str:
    if not isinstance(path, str) or path in ("", "."):
        return folder
    if path.startswith("/") or "://" in path:
        return path
    return absolute_uri(join_uri(folder, path.removeprefix("./")))


def _unclear_format(uri: str, names: Sequence[str]) -> str:
    endings = Counter(name.rpartition(".")[2].lower() if "." in name else "no extension" for name in names)
    counts = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(6))
    examples = ", ".join(map(repr, itertools.islice(names, 3)))
    return (
        f"{uri}: its format of labelled data is not clear from its {len(names):,} names ({counts}; such as "
        f"{examples}). Name the .json, data.yaml or table itself, or write a job file with data: kind coco, voc, yolo, "
        f"folders or table, for example {{kind: voc, annotations: {with_slash(uri)}Annotations, images: "
        f"{with_slash(uri)}JPEGImages}}"
    )

"""What kind of labelled data lies at a URI, for a command line that only says where.

Only names are looked at, and of a YAML file whether it has class names. Where names leave it open, this says what it
saw and what would tell, instead of guessing on: wrong labels are worse than none.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from batchtag.config.dataset import CocoData, DatasetSpec, FolderData, TableData, VocData, YoloData
from batchtag.datasets.files import TABLES, as_folder, folder_of, is_image, names_if_there, read_file, stem_of
from batchtag.datasets.yolo import classes_of_yaml, yaml_of
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri

_BESIDE = ("images", "pictures")
"""What the folder of COCO's images is called, beside the file."""
_SIBLINGS = ("JPEGImages", "images", "Images")
"""What the folder of the images is called, where it lies beside that of the XML files."""


def guess_dataset(uri: str, *, storage_options: Mapping[str, Any] | None = None) -> DatasetSpec:
    """The data at `uri`: a file (.json, a table) or a folder. Raises UsageError saying what was seen, StorageError."""
    options = dict(storage_options or {})
    uri = absolute_uri(uri)
    name = uri.lower()
    if name.endswith(".json"):
        return _coco(uri, options)
    if name.endswith(TABLES):
        return TableData(uri=uri, storage_options=options)
    if name.endswith((".yaml", ".yml")):
        return _yolo(uri, options)
    names = names_if_there(uri, options)
    if not names:
        raise UsageError(f"{uri}: nothing lies there; --data takes a folder, a .json of COCO, a data.yaml or a table")
    found = _in_folder(uri, names, options)
    if found is None:
        raise UsageError(_what_was_seen(uri, names))
    return found


def _in_folder(uri: str, names: Sequence[str], options: dict[str, Any]) -> DatasetSpec | None:
    top = [name for name in names if "/" not in name]
    yamls = [join_uri(uri, name) for name in top if name.lower().endswith((".yaml", ".yml"))]
    for one in sorted(yamls, key=lambda yaml: not yaml.endswith("/data.yaml")):
        if "names" in yaml_of(one, options):
            return _yolo(one, options)
    if any(name.lower().endswith(".xml") for name in names):
        return _voc(uri, names, options)
    jsons = [name for name in top if name.lower().endswith(".json")]
    if len(jsons) == 1 and b'"annotations"' in read_file(join_uri(uri, jsons[0]), options):
        return _coco(join_uri(uri, jsons[0]), options)
    images = {stem_of(name) for name in names if is_image(name)}
    if any(name.endswith(".txt") and stem_of(name) in images for name in names):
        return None  # YOLO's without its class names
    if any("/" in name and is_image(name) for name in names):
        return FolderData(uri=uri, storage_options=options)
    tables = [name for name in top if name.lower().endswith(TABLES)]
    return TableData(uri=join_uri(uri, tables[0]), storage_options=options) if len(tables) == 1 else None


def _coco(uri: str, options: dict[str, Any]) -> CocoData:
    """Images lie beside the file or, as often, in `images` (or, where we drew them, `images`) beside it."""
    folder = folder_of(uri)
    if not _has_images(folder, options):
        beside = [join_uri(folder, name) for name in _BESIDE]
        folder = next((one for one in beside if names_if_there(one, options)), folder)
    return CocoData(uri=uri, images=folder, storage_options=options)


def _has_images(folder: str, options: dict[str, Any]) -> bool:
    return any(is_image(name) and "/" not in name for name in names_if_there(folder, options))


def _voc(uri: str, names: Sequence[str], options: dict[str, Any]) -> VocData | None:
    """XML files in one folder and images in one: the same, another below, or a sibling."""
    annotations = {name.rpartition("/")[0] for name in names if name.lower().endswith(".xml")}
    images = {name.rpartition("/")[0] for name in names if is_image(name)}
    if len(annotations) == 1 and len(images) == 1:
        ways = [join_uri(uri, way) if way else uri for way in (*annotations, *images)]
        return VocData(annotations=ways[0], images=ways[1], storage_options=options)
    if annotations == {""} and not images:
        parent = folder_of(uri.removesuffix("/"))
        siblings = [join_uri(parent, name) for name in _SIBLINGS]
        found = next((one for one in siblings if names_if_there(one, options)), None)
        return VocData(annotations=uri, images=found, storage_options=options) if found else None
    return None


def _yolo(uri: str, options: dict[str, Any]) -> YoloData:
    """The images of a data.yaml: those to measure on if it names some, as a folder below its own."""
    classes_of_yaml(uri, options)
    content = yaml_of(uri, options)
    root = _below(folder_of(uri), content.get("path"))
    named = [content.get(split) for split in ("val", "test", "train")]
    folders = [_below(root, way) for way in named if isinstance(way, str) and way]
    # Roboflow writes ../valid/images, meant from a folder that is not there
    folders += [_below(root, way.removeprefix("../")) for way in named if isinstance(way, str) and way]
    folders += [join_uri(folder_of(uri), "images"), folder_of(uri)]
    images = next((one for one in folders if any(map(is_image, names_if_there(one, options)))), None)
    if images is None:
        raise UsageError(f"{uri}: no images in any of {', '.join(dict.fromkeys(folders))}; correct its `val`")
    return YoloData(images=images, names=uri, storage_options=options)


def _below(folder: str, way: Any) -> str:
    if not isinstance(way, str) or way in ("", "."):
        return folder
    if way.startswith("/") or "://" in way:
        return way
    return absolute_uri(join_uri(folder, way.removeprefix("./")))


def _what_was_seen(uri: str, names: Sequence[str]) -> str:
    endings = Counter(name.rpartition(".")[2].lower() if "." in name else "no extension" for name in names)
    seen = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(6))
    example = ", ".join(map(repr, itertools.islice(names, 3)))
    return (
        f"{uri}: its kind of labelled data is not clear from its {len(names):,} names ({seen}; such as {example}). "
        "Name the .json, data.yaml or table itself, or say it in a job file under data: kind coco, voc, yolo, folders "
        f"or table, for example {{kind: voc, annotations: {as_folder(uri)}Annotations, images: "
        f"{as_folder(uri)}JPEGImages}}"
    )

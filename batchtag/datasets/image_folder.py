"""Classified images in one folder for each class, at any depth.

The class is the folder that contains the image. A bucket has no empty folders, so an empty class is only found on a
local disk. If two folders have the same name, reading them would silently merge what may be two classes, or `train` and
`test` of one class, so that is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from batchtag.config.dataset import FolderData
from batchtag.datasets.annotations import AnnotatedImage, ParsedAnnotations, limit_images
from batchtag.datasets.base import Problem
from batchtag.datasets.files import is_image_name, list_names
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri, scheme_of


def read_image_folder(spec: FolderData) -> ParsedAnnotations:
    """Read every image below the folder. Raises UsageError if no folder below it contains images."""
    uri = absolute_uri(spec.uri)
    names = [name for name in list_names(uri, spec.storage_options) if is_image_name(name)]
    class_folders = sorted({name.rpartition("/")[0] for name in names} - {""})
    if not class_folders:
        raise UsageError(f"{uri}: contains no folder with images; kind folders needs one for each class")
    empty_folders = _find_empty_folders(uri, class_folders)
    class_names = _name_classes([*class_folders, *empty_folders], spec, uri=uri)
    problems = [
        Problem(
            kind="empty_class",
            uri=join_uri(uri, folder),
            label=class_names[folder],
            detail=f"the folder of the class {class_names[folder]!r} contains no image; add some, or remove the folder",
        )
        for folder in empty_folders
    ]
    images = []
    for name in names:
        folder = name.rpartition("/")[0]
        if folder:
            images.append(AnnotatedImage(uri=join_uri(uri, name), class_names=[class_names[folder]]))
        else:
            detail = f"has no class: it lies in {uri} itself, beside the folders of the classes"
            problems.append(Problem(kind="not_annotated", uri=join_uri(uri, name), detail=detail))
    return ParsedAnnotations(
        task="classify",
        images=limit_images(images, spec.limit, task="classify"),
        problems=problems,
        labels=sorted(set(class_names.values())),
    )


def _name_classes(folders: list[str], spec: FolderData, *, uri: str) -> Mapping[str, str]:
    """Return the class of each folder (a path below the root). Raises UsageError if two folders have the same name."""
    if spec.class_from == "path":
        return {folder: folder for folder in folders}
    class_names = {folder: folder.rpartition("/")[2] for folder in folders}
    folders_by_name: dict[str, list[str]] = {}
    for folder, name in class_names.items():
        folders_by_name.setdefault(name, []).append(folder)
    repeated = [f"{name!r} ({', '.join(same)})" for name, same in folders_by_name.items() if len(same) > 1]
    if repeated:
        raise UsageError(
            f"{uri}: several folders have the same class name: {', '.join(repeated[:10])}. Name the folder of one "
            "split, or tell the classes apart with class_from: path"
        )
    return class_names


def _find_empty_folders(uri: str, class_folders: list[str]) -> list[str]:
    """Return the paths below the root of leaf folders without an image; an empty list for anything but a local disk."""
    if scheme_of(uri) != "file":
        return []
    with_images = {folder[: len(folder) if end < 0 else end] for folder in class_folders for end in _path_ends(folder)}
    empty_folders = []
    for path, subfolders, _ in os.walk(uri):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name != "__MACOSX"]
        folder = os.path.relpath(path, uri).replace(os.sep, "/")
        if folder != "." and not subfolders and folder not in with_images:
            empty_folders.append(folder)
    return sorted(empty_folders)


def _path_ends(folder: str) -> list[int]:
    """Return where a parent path of a folder may end: at each slash, and (-1) at the end."""
    return [*(index for index, character in enumerate(folder) if character == "/"), -1]

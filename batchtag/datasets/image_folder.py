"""A folder of images for each class, at any depth.

The class is the folder in which an image lies. A bucket has no empty folders, so only on a local disk can one be
noticed. A folder name that comes twice would silently join what may be two classes, or `train` and `test` of the same
classes, so that is refused rather than guessed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from batchtag.config.dataset import FolderData
from batchtag.datasets.base import Annotated, Found, Problem, first_of
from batchtag.datasets.files import is_image, names_under
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri, scheme_of


def read_folders(spec: FolderData) -> Found:
    """Every image below the folder. Raises UsageError if there is none in a folder of its class."""
    uri = absolute_uri(spec.uri)
    names = [name for name in names_under(uri, spec.storage_options) if is_image(name)]
    ways = sorted({name.rpartition("/")[0] for name in names} - {""})
    if not ways:
        raise UsageError(f"{uri}: holds no folder with images; kind folders wants one for each class")
    empty = _empty_folders(uri, ways)
    classes = _classes([*ways, *empty], spec, uri=uri)
    problems = [
        Problem(
            kind="empty_class",
            uri=join_uri(uri, way),
            label=classes[way],
            detail=f"the folder of the class {classes[way]!r} holds no image; put some in, or remove it",
        )
        for way in empty
    ]
    images = []
    for name in names:
        way = name.rpartition("/")[0]
        if way:
            images.append(Annotated(uri=join_uri(uri, name), names=[classes[way]]))
        else:
            what = f"lies beside the folders of the classes, in {uri}, and so has no class"
            problems.append(Problem(kind="not_annotated", uri=join_uri(uri, name), detail=what))
    return Found(
        task="classify",
        images=first_of(images, spec.limit, task="classify"),
        problems=problems,
        labels=sorted(set(classes.values())),
    )


def _classes(ways: list[str], spec: FolderData, *, uri: str) -> Mapping[str, str]:
    """The class of each folder (its path below the root). Raises UsageError if two would be called alike."""
    if spec.class_from == "path":
        return {way: way for way in ways}
    classes = {way: way.rpartition("/")[2] for way in ways}
    by_name: dict[str, list[str]] = {}
    for way, name in classes.items():
        by_name.setdefault(name, []).append(way)
    twice = [f"{name!r} ({', '.join(found)})" for name, found in by_name.items() if len(found) > 1]
    if twice:
        raise UsageError(
            f"{uri}: classes that are the name of more than one folder: {', '.join(twice[:10])}. Name the folder "
            "of one split, or tell the classes apart with class_from: path"
        )
    return classes


def _empty_folders(uri: str, ways: list[str]) -> list[str]:
    """Paths below the root of folders that end there without an image. None but on the local disk."""
    if scheme_of(uri) != "file":
        return []
    filled = {way[: len(way) if at < 0 else at] for way in ways for at in _slashes(way)}
    empty = []
    for folder, below, _ in os.walk(uri):
        below[:] = [name for name in below if not name.startswith(".") and name != "__MACOSX"]
        way = os.path.relpath(folder, uri).replace(os.sep, "/")
        if way != "." and not below and way not in filled:
            empty.append(way)
    return sorted(empty)


def _slashes(way: str) -> list[int]:
    """Where a path may end: at each slash, and (-1) at its end."""
    return [*(at for at, character in enumerate(way) if character == "/"), -1]

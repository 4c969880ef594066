"""The order of a parallel listing, and how much of it is in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import pytest

from batchtag.errors import StorageError
from batchtag.storage.base import ObjectInfo
from batchtag.storage.parallel_listing import FolderPage, walk_folders

Tree = Mapping[str, list[tuple[list[str], list[str]]]]


def names(tree: Tree, *, lanes: int) -> list[str]:
    def pages_of(folder: str) -> Iterator[FolderPage[str]]:
        for objects, folders in tree[folder]:
            yield FolderPage(objects=[ObjectInfo(uri=folder + name) for name in objects], folders=folders)

    return [info.uri for page in walk_folders("", pages_of=pages_of, lanes=lanes) for info in page]


def test_one_lane_lists_folders_one_after_another() -> None:
    tree: Tree = {"": [(["1"], ["a/", "b/"]), (["2"], [])], "a/": [(["1"], []), (["2"], [])], "b/": [(["1"], [])]}
    assert names(tree, lanes=1) == ["1", "a/1", "a/2", "b/1", "2"]


def test_lanes_take_turns_and_each_folder_keeps_its_order() -> None:
    tree: Tree = {
        "": [([], ["a/", "b/"])],
        "a/": [(["1"], []), (["2"], []), (["3"], [])],
        "b/": [(["1"], []), (["2"], [])],
    }
    assert names(tree, lanes=2) == ["a/1", "b/1", "a/2", "b/2", "a/3"]


def test_folders_are_listed_in_parallel() -> None:
    all_four = threading.Barrier(4, timeout=10)

    def pages_of(folder: str) -> Iterator[FolderPage[str]]:
        if not folder:
            yield FolderPage(objects=[], folders=["a", "b", "c", "d"])
            return
        all_four.wait()
        yield FolderPage(objects=[ObjectInfo(uri=folder)], folders=[])

    assert [page[0].uri for page in walk_folders("", pages_of=pages_of, lanes=4)] == ["a", "b", "c", "d"]


def test_a_folder_of_many_subfolders_is_not_read_ahead_of_the_subfolders_that_were_started() -> None:
    pages_read = 0

    def pages_of(folder: str) -> Iterator[FolderPage[str]]:
        nonlocal pages_read
        if folder:
            yield FolderPage(objects=[ObjectInfo(uri=folder)], folders=[])
            return
        for n in range(10_000):
            pages_read += 1
            yield FolderPage(objects=[], folders=[f"{n}-{i}" for i in range(100)])

    walk = walk_folders("", pages_of=pages_of, lanes=4)
    found = [next(walk)[0].uri for _ in range(250)]
    walk.close()  # type: ignore[attr-defined]
    assert found == [f"{n}-{i}" for n in range(3) for i in range(100)][:250]
    assert pages_read <= 4


def test_an_error_in_a_folder_is_raised_to_the_caller() -> None:
    def pages_of(folder: str) -> Iterator[FolderPage[str]]:
        yield FolderPage(objects=[ObjectInfo(uri="1")], folders=[])
        raise StorageError("disk error")

    walk = walk_folders("", pages_of=pages_of)
    assert next(walk)[0].uri == "1"
    with pytest.raises(StorageError, match="disk error"):
        next(walk)

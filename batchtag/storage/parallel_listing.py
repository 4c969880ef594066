"""Many folders listed at once, in an order that depends on nothing but the keys.

A bucket of 100 million keys is 100,000 pages; one after another they take hours. Strict key order would force either
that or holding what arrives early, so pages are taken from up to LANES folders in turn instead: each folder's keys come
in order, folders are interleaved always in the same way, and memory holds a page or two a lane. A lane that finds
subfolders waits until they have been started, so a folder of ten million subfolders is never ten million names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from batchtag.storage.base import ObjectInfo

LANES = 32
"""Folders listed at the same time."""

F = TypeVar("F")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPage(Generic[F]):
    """Some of what lies directly in a folder: objects, and folders (in whatever form the store names them)."""

    objects: list[ObjectInfo]
    folders: list[F]


class _Lane(Generic[F]):
    """One folder being listed, its next page always on the way."""

    def __init__(self, folder: F, pages_of: Callable[[F], Iterator[FolderPage[F]]]) -> None:
        self._pages = pages_of(folder)
        self.page: Future[FolderPage[F] | None] | None = None

    def order_page(self, pool: ThreadPoolExecutor) -> None:
        self.page = pool.submit(next, self._pages, None)


def walk_folders(
    root: F, *, pages_of: Callable[[F], Iterator[FolderPage[F]]], lanes: int = LANES
) -> Iterator[list[ObjectInfo]]:
    """Every object under `root`, page by page. `pages_of` lists one folder; it runs in threads, one at a time each."""
    waiting = [_Lane(root, pages_of)]  # a stack: subfolders before what comes after them
    active: deque[_Lane[F]] = deque()
    pool = ThreadPoolExecutor(lanes, thread_name_prefix="walk")
    try:
        while active or waiting:
            while waiting and len(active) < lanes:
                active.append(waiting.pop())
                active[-1].order_page(pool)
            lane = active.popleft()
            assert lane.page is not None
            page = lane.page.result()
            if page is None:
                continue
            if page.folders:
                waiting.append(lane)
                waiting.extend(_Lane(folder, pages_of) for folder in reversed(page.folders))
            else:
                lane.order_page(pool)
                active.append(lane)
            if page.objects:
                yield page.objects
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

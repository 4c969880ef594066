"""List many folders at once, in an order that depends only on the keys.

A bucket of 100 million keys is 100,000 pages, which take hours one after another. Strict key order would require either
that, or to hold the pages that arrive early. Instead, pages are taken in turn from up to LANES folders: the keys of
each folder are in order, folders are always interleaved in the same way, and memory holds a page or two per lane. A
lane that finds subfolders waits until they have been started, so a folder of ten million subfolders is never ten
million names in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from batchtag.storage.base import ObjectInfo

LANES = 32
"""Number of folders listed at the same time."""

F = TypeVar("F")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPage(Generic[F]):
    """A page of the entries directly in a folder: objects, and folders in the form in which the store names them."""

    objects: list[ObjectInfo]
    folders: list[F]


class _Lane(Generic[F]):
    """The listing of one folder. Its next page is always requested in advance."""

    def __init__(self, folder: F, pages_of: Callable[[F], Iterator[FolderPage[F]]]) -> None:
        self._pages = pages_of(folder)
        self.page: Future[FolderPage[F] | None] | None = None

    def request_page(self, pool: ThreadPoolExecutor) -> None:
        self.page = pool.submit(next, self._pages, None)


def walk_folders(
    root: F, *, pages_of: Callable[[F], Iterator[FolderPage[F]]], lanes: int = LANES
) -> Iterator[list[ObjectInfo]]:
    """Yield every object under `root`, page by page.

    `pages_of` lists one folder. It runs in threads, in one thread at a time for each folder.
    """
    waiting = [_Lane(root, pages_of)]  # a stack, so that subfolders are listed before the rest of their parent
    active: deque[_Lane[F]] = deque()
    pool = ThreadPoolExecutor(lanes, thread_name_prefix="walk")
    try:
        while active or waiting:
            # 1. Fill the free lanes.
            while waiting and len(active) < lanes:
                active.append(waiting.pop())
                active[-1].request_page(pool)
            # 2. Take the page of the lane whose turn it is, also if another lane's page is ready: the order must not
            #    vary.
            lane = active.popleft()
            assert lane.page is not None
            page = lane.page.result()
            if page is None:
                continue
            # 3. A lane with new subfolders gives its place to them; any other lane requests its next page.
            if page.folders:
                waiting.append(lane)
                waiting.extend(_Lane(folder, pages_of) for folder in reversed(page.folders))
            else:
                lane.request_page(pool)
                active.append(lane)
            if page.objects:
                yield page.objects
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

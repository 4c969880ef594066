from __future__ import annotations

import gc
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchtag.errors import StorageError
from batchtag.output import index as index_module
from batchtag.output.index import Index, freeze_index, read_bundle, read_index
from batchtag.output.layout import Layout
from batchtag.storage import Store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.local import LocalStore
from batchtag.types import ImageRef
from tests.support.samples import NOON


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "out"))


def make_pages(num_images: int, *, page: int = 1000) -> Iterator[list[ObjectInfo]]:
    for start in range(0, num_images, page):
        yield [ObjectInfo(uri=f"s3://b/{i}.jpg", size_bytes=i) for i in range(start, min(start + page, num_images))]


def freeze(
    pages: Iterator[list[ObjectInfo]],
    layout: Layout,
    *,
    size: int = 64,
    limit: int | None = None,
    store: Store | None = None,
    on_listed: Callable[[int], None] = lambda num_images: None,
) -> Index:
    return freeze_index(
        pages,
        store=store or LocalStore(),
        layout=layout,
        bundle_size=lambda num_images: size,
        limit=limit,
        listed_at=NOON,
        on_listed=on_listed,
    )


def uris_of(index: Index, layout: Layout) -> list[tuple[int, str]]:
    store = LocalStore()
    return [
        (ref.position, ref.uri) for bundle in index.bundles() for ref in read_bundle(bundle, store=store, layout=layout)
    ]


def test_keys_are_read_back_byte_exact_at_their_positions(layout: Layout, shared_data: Path) -> None:
    keys = json.loads((shared_data / "nasty_keys.json").read_text())
    names = [key if isinstance(key, str) else key["key"] for key in (keys if isinstance(keys, list) else keys["keys"])]
    listed = [ObjectInfo(uri=f"s3://b/{name}") for name in names]
    index = freeze(iter([listed]), layout, size=7)
    assert uris_of(index, layout) == list(enumerate(image.uri for image in listed))


def test_every_field_of_a_listing_is_read_back(layout: Layout) -> None:
    member = ImageRef(
        uri="s3://b/0.tar#a.jpg",
        etag="x-1",
        size_bytes=7,
        last_modified=datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC),
        shard="s3://b/0.tar",
        offset_bytes=512,
    )
    unreadable = ImageRef(uri="s3://b/x", problem="bad_name: no")
    index = freeze(iter([[member], [], [unreadable]]), layout)
    (bundle,) = index.bundles()
    refs = read_bundle(bundle, store=LocalStore(), layout=layout)
    for ref, listed in zip(refs, (member, unreadable), strict=True):
        for name in (*ObjectInfo.__slots__, "shard", "offset_bytes", "problem"):
            assert getattr(ref, name) == getattr(listed, name)


def test_row_groups_are_the_bundles(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PART_ROWS", 1000)
    index = freeze(make_pages(2500, page=333), layout, size=64)
    assert [part.num_images for part in index.parts] == [960, 960, 580]
    assert [part.first for part in index.parts] == [0, 960, 1920]
    bundles = list(index.bundles())
    assert [bundle.first for bundle in bundles] == list(range(0, 2500, 64))
    assert sum(bundle.num_images for bundle in bundles) == index.num_images == 2500
    for part in index.parts:
        metadata = pq.read_metadata(layout.index_part(part.name))
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert sizes == [bundle.num_images for bundle in part.bundles()]
    assert uris_of(index, layout) == [(i, f"s3://b/{i}.jpg") for i in range(2500)]


def test_a_part_has_a_limited_number_of_bundles(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PART_BUNDLES", 3)
    index = freeze(make_pages(20), layout, size=2)
    assert [part.num_images for part in index.parts] == [6, 6, 6, 2]


def test_a_bundle_larger_than_a_part_is_not_divided(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PART_ROWS", 10)
    index = freeze(make_pages(60, page=7), layout, size=25)
    assert [(bundle.first, bundle.num_images) for bundle in index.bundles()] == [(0, 25), (25, 25), (50, 10)]


def test_the_index_that_is_read_is_the_one_that_was_frozen(layout: Layout) -> None:
    assert read_index(store=LocalStore(), layout=layout) is None
    index = freeze(make_pages(130), layout)
    assert read_index(store=LocalStore(), layout=layout) == index
    assert index.listed_at == NOON.isoformat()


@pytest.mark.parametrize("limit", [1, 999, 1000, 1001])
def test_a_limit_is_exact_and_no_further_page_is_requested(layout: Layout, limit: int) -> None:
    num_pages = 0

    def counted_pages() -> Iterator[list[ObjectInfo]]:
        nonlocal num_pages
        for page in make_pages(5000):
            num_pages += 1
            yield page

    index = freeze(counted_pages(), layout, limit=limit)
    assert index.num_images == limit
    assert num_pages == -(-limit // 1000)
    assert [uri for _, uri in uris_of(index, layout)] == [f"s3://b/{i}.jpg" for i in range(limit)]


def test_a_source_without_images_is_an_index_without_bundles(layout: Layout) -> None:
    index = freeze(iter([[], []]), layout)
    assert (index.num_images, list(index.bundles())) == (0, [])
    assert read_index(store=LocalStore(), layout=layout) == index


def test_the_bundle_size_is_chosen_once_with_at_most_the_rows_of_one_part(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "PART_ROWS", 2000)
    numbers: list[int] = []

    def size(num_images: int) -> int:
        numbers.append(num_images)
        return 64

    for num_images in (130, 10_000):
        freeze_index(
            make_pages(num_images), store=LocalStore(), layout=layout, bundle_size=size, limit=None, listed_at=NOON
        )
    assert numbers == [130, 2000]


class DiscardingStore(LocalStore):
    """A store that checks and discards what is written, and keeps the names."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, uri: str, data: bytes) -> str:
        assert pq.read_metadata(io.BytesIO(data)) if uri.endswith(".parquet") else json.loads(data)
        self.written.append(uri)
        return "e"


def test_a_long_listing_is_streamed_and_never_in_memory_as_a_whole(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300,000 images as Python objects are 120 MB; only a part and a page are in memory."""
    monkeypatch.setattr(index_module, "PART_ROWS", 8192)
    store, alive, most = DiscardingStore(), 0, 0

    class Page(list[ObjectInfo]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pages() -> Iterator[list[ObjectInfo]]:
        nonlocal alive, most
        for page in make_pages(300_000, page=3000):
            alive += 1
            most = max(most, alive)
            yield Page(page)

    tracemalloc.start()
    index = freeze(pages(), layout, size=1024, store=store)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.num_images == 300_000
    assert len(store.written) == 37 + 1
    assert most <= 3
    assert peak_bytes < 20e6


def test_the_memory_of_a_written_part_is_freed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PART_ROWS", 5000)
    gc.collect()  # so that nothing of other tests is freed meanwhile
    before, allocated = pa.total_allocated_bytes(), []
    freeze(
        make_pages(50_000),
        layout,
        size=500,
        on_listed=lambda num_images: allocated.append(pa.total_allocated_bytes() - before),
    )
    first_part, other_parts = max(allocated[:5]), max(allocated[5:])
    assert other_parts < 1.5 * first_part
    assert pa.total_allocated_bytes() <= before


def test_an_interrupted_listing_leaves_no_index_and_the_next_one_starts_from_the_beginning(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "PART_ROWS", 1000)

    def broken() -> Iterator[list[ObjectInfo]]:
        yield from make_pages(3000)
        raise StorageError("s3://b/: access denied")

    with pytest.raises(StorageError, match="access denied"):
        freeze(broken(), layout)
    assert read_index(store=LocalStore(), layout=layout) is None
    index = freeze(make_pages(1500), layout)
    assert read_index(store=LocalStore(), layout=layout) == index
    assert [position for position, _ in uris_of(index, layout)] == list(range(1500))


def test_the_number_of_listed_images_is_reported_after_each_page(layout: Layout) -> None:
    reported: list[int] = []
    freeze(make_pages(2500), layout, on_listed=reported.append)
    assert reported == [1000, 2000, 2500]

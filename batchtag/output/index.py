"""The index: the input as it was listed, frozen, every object once at its position.

Parquet parts whose row groups are the bundles, so their boundaries are decided once and a worker reads just its rows;
then `index.json`, which makes the parts count. Listing streams: at most one part (131,072 rows, about 20 MB as Arrow)
is held, whatever the size of the bucket. A listing that was interrupted left no index.json and begins again.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.output.layout import Layout
from batchtag.output.schemas import schema_of
from batchtag.output.types import Bundle
from batchtag.storage import Store, read_json
from batchtag.storage.base import ObjectInfo
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ImageRef

SCHEMA = schema_of(
    pa.field("uri", pa.string(), nullable=False),
    pa.field("etag", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64(), nullable=False),
    pa.field("last_modified", pa.timestamp("us", tz="UTC")),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("offset_bytes", pa.int64(), nullable=False),
    pa.field("problem", pa.string(), nullable=False),
)
PART_ROWS = 131_072
PART_BUNDLES = 256
"""At most so many row groups in a part: a worker reads the part's footer for each bundle, and it grows with them."""


@dataclass(frozen=True, kw_only=True)
class IndexPart:
    """One file of the index: positions `first` to `first + num_images - 1`, in row groups of `bundle_size`."""

    name: str
    first: int
    num_images: int
    bundle_size: int
    sha256: str

    def bundles(self) -> Iterator[Bundle]:
        """Its bundles in order; the last one may be smaller."""
        for row_group, start in enumerate(range(0, self.num_images, self.bundle_size)):
            size = min(self.bundle_size, self.num_images - start)
            yield Bundle(first=self.first + start, num_images=size, index_part=self.name, row_group=row_group)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What index.json says: the frozen input."""

    num_images: int
    listed_at: str
    parts: tuple[IndexPart, ...]

    def bundles(self) -> Iterator[Bundle]:
        """Every bundle, by position."""
        return itertools.chain.from_iterable(part.bundles() for part in self.parts)


def freeze_index(
    pages: Iterable[list[ObjectInfo]],
    *,
    store: Store,
    layout: Layout,
    bundle_size: Callable[[int], int],
    limit: int | None,
    listed_at: datetime,
    on_listed: Callable[[int], None] = lambda num_images: None,
) -> Index:
    """Write the listing as the index of OUT, part by part, and commit it. Runs on the driver.

    `bundle_size` is asked once, with the number of images, or with PART_ROWS when there are at least that many.
    `on_listed` is called after each page with the number so far.
    """
    batches = _numbered(pages, limit=limit, on_listed=on_listed)
    rest = _take(batches, PART_ROWS)
    size = bundle_size(len(rest))
    part_rows = max(size, min(PART_ROWS, size * PART_BUNDLES) // size * size)
    parts: list[IndexPart] = []
    first = 0
    while len(rest):
        if len(rest) < part_rows:
            rest = pa.concat_tables([rest, _take(batches, part_rows - len(rest))])
        parts.append(
            _write_part(rest.slice(0, part_rows), number=len(parts), first=first, size=size, store=store, layout=layout)
        )
        first += parts[-1].num_images
        rest = rest.slice(part_rows)
        if not len(rest):
            rest = _take(batches, part_rows)
    del rest
    pa.default_memory_pool().release_unused()  # 40 MB that Arrow would keep for what the driver never does again
    index = Index(num_images=first, listed_at=listed_at.isoformat(), parts=tuple(parts))
    text = json.dumps({"version": 1, **asdict(index)}, indent=1)
    with_retries(lambda: store.write(layout.index, text.encode()), policy=WRITES)
    return index


def _numbered(
    pages: Iterable[list[ObjectInfo]], *, limit: int | None, on_listed: Callable[[int], None]
) -> Iterator[pa.Table]:
    num_images = 0
    for page in pages:
        if limit is not None:
            page = page[: limit - num_images]
        num_images += len(page)
        on_listed(num_images)
        yield pa.table({name: [getattr(image, name) for image in page] for name in SCHEMA.names}, schema=SCHEMA)
        if limit is not None and num_images >= limit:
            return


def _take(batches: Iterator[pa.Table], num_rows: int) -> pa.Table:
    """At least `num_rows` rows from the stream, or all that are left; a page more at most."""
    taken, count = [SCHEMA.empty_table()], 0
    while count < num_rows and (batch := next(batches, None)) is not None:
        taken.append(batch)
        count += len(batch)
    return pa.concat_tables(taken)


def _write_part(table: pa.Table, *, number: int, first: int, size: int, store: Store, layout: Layout) -> IndexPart:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=size, write_statistics=False)
    data, name = sink.getvalue(), f"part-{number:05d}.parquet"
    with_retries(lambda: store.write(layout.index_part(name), data), policy=WRITES)
    sha256 = hashlib.sha256(data).hexdigest()
    return IndexPart(name=name, first=first, num_images=len(table), bundle_size=size, sha256=sha256)


def read_index(*, store: Store, layout: Layout) -> Index | None:
    """The frozen index of OUT; None if it was never committed."""
    found = read_json(layout.index, store=store, build=_index_of)
    return found[0] if found else None


def _index_of(content: dict[str, Any]) -> Index:
    parts = tuple(IndexPart(**part) for part in content["parts"])
    return Index(num_images=content["num_images"], listed_at=content["listed_at"], parts=parts)


def read_bundle(bundle: Bundle, *, store: Store, layout: Layout) -> list[ImageRef]:
    """The image refs of one bundle, by position. Runs in the worker: two small range reads."""

    def rows() -> list[dict[str, object]]:
        with store.open(layout.index_part(bundle.index_part)) as file, pq.ParquetFile(file) as part:
            found: list[dict[str, object]] = part.read_row_group(bundle.row_group).to_pylist()
        return found

    listed, _ = with_retries(rows)
    return [ImageRef(position=bundle.first + i, **row) for i, row in enumerate(listed)]  # type: ignore[arg-type]

"""The index: the input as it was listed, frozen, every object once at its position.

The index is Parquet parts whose row groups are the bundles, so bundle boundaries are decided once and a worker reads
only its rows. `index.json` is written last and makes the parts valid; a listing that was interrupted has none and
starts again. The listing is streamed: whatever the size of the bucket, at most one part (131,072 rows, about 20 MB as
Arrow) is in memory.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.output.layout import Layout
from batchtag.output.schemas import make_schema
from batchtag.output.types import Bundle
from batchtag.storage import ObjectInfo, Store, read_json
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ImageRef

SCHEMA = make_schema(
    pa.field("uri", pa.string(), nullable=False),
    pa.field("etag", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64(), nullable=False),
    pa.field("last_modified", pa.timestamp("us", tz="UTC")),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("offset_bytes", pa.int64(), nullable=False),
    pa.field("problem", pa.string(), nullable=False),
)
_ONLY_IN_REFS = {"shard": "", "offset_bytes": -1, "problem": ""}
"""Columns that an ImageRef has and a plain ObjectInfo does not, with the value for the latter."""
PART_ROWS = 131_072
PART_BUNDLES = 256
"""Maximum number of row groups in a part. A worker reads the part's footer for each bundle, and it grows with them."""


@dataclass(frozen=True, kw_only=True)
class IndexPart:
    """One file of the index: positions `first` to `first + num_images - 1`, in row groups of `bundle_size`."""

    name: str
    first: int
    num_images: int
    bundle_size: int
    sha256: str

    def bundles(self) -> Iterator[Bundle]:
        """Yield its bundles in order; the last one may be smaller."""
        for row_group, start in enumerate(range(0, self.num_images, self.bundle_size)):
            size = min(self.bundle_size, self.num_images - start)
            yield Bundle(first=self.first + start, num_images=size, index_part=self.name, row_group=row_group)


@dataclass(frozen=True, kw_only=True)
class Index:
    """The content of index.json: the frozen input."""

    num_images: int
    listed_at: str
    parts: tuple[IndexPart, ...]

    def bundles(self) -> Iterator[Bundle]:
        """Yield every bundle, by position."""
        return itertools.chain.from_iterable(part.bundles() for part in self.parts)


def freeze_index(
    pages: Iterable[Sequence[ObjectInfo]],
    *,
    store: Store,
    layout: Layout,
    bundle_size: Callable[[int], int],
    limit: int | None,
    listed_at: datetime,
    on_listed: Callable[[int], None] = lambda num_images: None,
) -> Index:
    """Write the listing as the index of OUT, part by part, and commit it with index.json. Runs on the driver.

    `bundle_size` is called once, with the number of images, or with PART_ROWS if there are at least that many.
    `on_listed` is called after each page with the number of images so far.
    """
    # 1. The first part is listed before the bundle size is chosen, because the size depends on the number of images.
    batches = _tables_of_pages(pages, limit=limit, on_listed=on_listed)
    rows = _take_rows(batches, PART_ROWS)
    size = bundle_size(len(rows))
    part_rows = max(size, min(PART_ROWS, size * PART_BUNDLES) // size * size)
    # 2. One part at a time is filled and written; `rows` holds what was listed beyond it.
    parts: list[IndexPart] = []
    first = 0
    while len(rows):
        if len(rows) < part_rows:
            rows = pa.concat_tables([rows, _take_rows(batches, part_rows - len(rows))])
        parts.append(
            _write_part(rows.slice(0, part_rows), number=len(parts), first=first, size=size, store=store, layout=layout)
        )
        first += parts[-1].num_images
        rows = rows.slice(part_rows)
        if not len(rows):
            rows = _take_rows(batches, part_rows)
    del rows
    pa.default_memory_pool().release_unused()  # Arrow would keep 40 MB that the driver never needs again
    # 3. index.json last: from here on the index exists.
    index = Index(num_images=first, listed_at=listed_at.isoformat(), parts=tuple(parts))
    text = json.dumps({"version": 1, **asdict(index)}, indent=1)
    with_retries(lambda: store.write(layout.index, text.encode()), policy=WRITES)
    return index


def _tables_of_pages(
    pages: Iterable[Sequence[ObjectInfo]], *, limit: int | None, on_listed: Callable[[int], None]
) -> Iterator[pa.Table]:
    num_images = 0
    for page in pages:
        if limit is not None:
            page = page[: limit - num_images]
        num_images += len(page)
        on_listed(num_images)
        yield pa.table({name: _column(page, name) for name in SCHEMA.names}, schema=SCHEMA)
        if limit is not None and num_images >= limit:
            return


def _column(page: Sequence[ObjectInfo], name: str) -> list[Any]:
    if name in _ONLY_IN_REFS:
        default = _ONLY_IN_REFS[name]
        return [getattr(listed, name, default) for listed in page]
    return [getattr(listed, name) for listed in page]


def _take_rows(batches: Iterator[pa.Table], num_rows: int) -> pa.Table:
    """Return at least `num_rows` rows of the stream, at most one page more; fewer at its end."""
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
    """Return the frozen index of OUT; None if it was never committed."""
    stored = read_json(layout.index, store=store, build=_parse_index)
    return stored[0] if stored else None


def _parse_index(content: dict[str, Any]) -> Index:
    parts = tuple(IndexPart(**part) for part in content["parts"])
    return Index(num_images=content["num_images"], listed_at=content["listed_at"], parts=parts)


def read_bundle(bundle: Bundle, *, store: Store, layout: Layout) -> list[ImageRef]:
    """Return the image refs of one bundle, by position. Runs in the worker: two small range reads."""

    def read_rows() -> list[dict[str, object]]:
        with store.open(layout.index_part(bundle.index_part)) as file, pq.ParquetFile(file) as part:
            rows: list[dict[str, object]] = part.read_row_group(bundle.row_group).to_pylist()
        return rows

    rows, _ = with_retries(read_rows)
    return [ImageRef(position=bundle.first + i, **row) for i, row in enumerate(rows)]  # type: ignore[arg-type]

"""The time of `batchtag verify` for a large OUT.

    python -m benchmarks.verify [--images 1000000] [--tags 5] [--rounds 3]

Writes the tables of a job over that many images (5 tags each, every hundredth image failed), with the index and the
footers that a run writes, and measures the time of the command as a process. All its checks must pass.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchtag.output.index import freeze_index
from batchtag.output.layout import Layout
from batchtag.output.schemas import ERRORS, IMAGES, TAGS, parquet_bytes
from batchtag.output.types import Bundle, Commit, CommittedFile
from batchtag.output.writer import COMMIT_KEY
from batchtag.storage import Store, open_store
from batchtag.storage.base import ObjectInfo

BUNDLE_SIZE = 8192
FAILED_STEP = 100
"""Every image whose position is a multiple of this has failed."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLI = [sys.executable, "-c", "from batchtag.cli import main; main()"]


def main() -> None:
    """Write the tables and measure the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--tags", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        out = str(Path(name) / "out")
        write_output(out, num_images=args.images, tags_per_image=args.tags)
        seconds = []
        for _ in range(args.rounds):
            started_at = time.monotonic()
            stdout = subprocess.run([*CLI, "verify", out], check=True, capture_output=True, text=True).stdout
            seconds.append(time.monotonic() - started_at)
            print(stdout.splitlines()[-1], flush=True)
        print(f"median of {args.rounds}: {statistics.median(seconds):.1f} s")


def write_output(out: str, *, num_images: int, tags_per_image: int) -> None:
    """Write an OUT that passes all checks."""
    store, layout = open_store(out), Layout(out)

    def pages() -> Iterator[list[ObjectInfo]]:
        for first in range(0, num_images, 5000):
            yield [ObjectInfo(uri=_uri(i), size_bytes=1) for i in range(first, min(first + 5000, num_images))]

    index = freeze_index(
        pages(), store=store, layout=layout, bundle_size=lambda _: BUNDLE_SIZE, limit=None, listed_at=NOW
    )
    for bundle in index.bundles():
        _write_part(bundle, tags_per_image=tags_per_image, store=store, layout=layout)


def _uri(position: int) -> str:
    return f"s3://photos/2026/{position % 1000:03d}/{position:09d}.jpg"


def _write_part(bundle: Bundle, *, tags_per_image: int, store: Store, layout: Layout) -> None:
    positions = np.arange(bundle.first, bundle.first + bundle.num_images)
    failed = pa.array(positions % FAILED_STEP == 0)
    uris = pa.array([_uri(int(i)) for i in positions], pa.string())
    n = len(positions)
    images = _table(
        IMAGES,
        {
            "uri": uris,
            "width": pa.repeat(640, n),
            "height": pa.repeat(480, n),
            "status": pc.if_else(failed, "failed", "tagged"),
            "num_tags": pc.if_else(failed, 0, tags_per_image),
            "position": pa.array(positions),
            "tagged_at": pa.repeat(NOW, n),
        },
    )
    tagged = np.repeat(np.flatnonzero(positions % FAILED_STEP), tags_per_image)
    m = len(tagged)
    x = np.random.default_rng(bundle.first).random(m) * 600
    ranks = np.tile(np.arange(1, tags_per_image + 1), m // tags_per_image)
    corners = {"x_min": x, "y_min": x / 2, "x_max": x + 40, "y_max": x / 2 + 40}
    tags = _table(
        TAGS,
        {
            "uri": uris.take(pa.array(tagged)),
            "tag": pa.repeat("bottle", m),
            "score": pa.array(1 / (ranks + 1)),
            "kind": pa.repeat("object", m),
            "model": pa.repeat("fasterrcnn@0123456789ab", m),
            "label_id": pa.repeat(44, m),
            "rank": pa.array(ranks),
            **{name: pa.array(values) for name, values in corners.items()},
        },
    )
    errors = _table(
        ERRORS,
        {
            "uri": uris.filter(failed),
            "stage": pa.repeat("decode", pc.sum(failed).as_py()),
            "code": pa.repeat("truncated", pc.sum(failed).as_py()),
        },
    )
    files = {"tags": parquet_bytes(tags), "errors": parquet_bytes(errors)}
    rows = {"tags": m, "errors": len(errors)}
    commit = Commit(
        part=bundle.id,
        first=bundle.first,
        num_images=n,
        num_tagged=n - len(errors),
        num_failed=len(errors),
        num_tags=m,
        files={
            table: CommittedFile(sha256=hashlib.sha256(data).hexdigest(), rows=rows[table])
            for table, data in files.items()
        },
        failed_by_code={"truncated": len(errors)} if len(errors) else {},
    )
    files["images"] = parquet_bytes(images, metadata={COMMIT_KEY: commit.to_json()})
    for table, data in files.items():
        store.write(layout.part(table, bundle.id), data)


def _table(schema: pa.Schema, columns: dict[str, pa.Array]) -> pa.Table:
    """Return a table with these columns. The others are null, or "" or 0 where null is not allowed."""
    n = len(next(iter(columns.values())))

    def column(field: pa.Field) -> pa.Array:
        if field.name in columns:
            return columns[field.name].cast(field.type)
        if field.nullable:
            return pa.nulls(n, field.type)
        return pa.repeat("" if pa.types.is_string(field.type) else 0, n).cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)


if __name__ == "__main__":
    main()

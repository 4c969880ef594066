"""How long `batchtag verify` takes over a large OUT.

    python -m benchmarks.verify [--images 1000000] [--tags 5] [--rounds 3]

Makes the tables of a job over so many images (5 tags each, every hundredth image failed), with the index and footers
that a run writes, and times the command from outside, as a process. It must find every promise kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchtag.output.index import freeze_index
from batchtag.output.layout import Layout
from batchtag.output.schemas import ERRORS, IMAGES, TAGS, parquet_bytes
from batchtag.output.types import Bundle, Commit
from batchtag.output.writer import COMMIT_KEY
from batchtag.storage import Store, open_store
from batchtag.storage.base import ObjectInfo

BUNDLE = 8192
EVERY_FAILED = 100
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLI = [sys.executable, "-c", "from batchtag.cli import main; main()"]


def main() -> None:
    """Make the tables, time the command."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--images", type=int, default=1_000_000)
    arguments.add_argument("--tags", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        out = str(Path(name) / "out")
        make(out, num_images=asked.images, tags_per_image=asked.tags)
        seconds = []
        for _ in range(asked.rounds):
            began = time.monotonic()
            said = subprocess.run([*CLI, "verify", out], check=True, capture_output=True, text=True).stdout
            seconds.append(time.monotonic() - began)
            print(said.splitlines()[-1], flush=True)
        print(f"median of {asked.rounds}: {statistics.median(seconds):.1f} s")


def make(out: str, *, num_images: int, tags_per_image: int) -> None:
    """An OUT in which every promise is kept."""
    store, layout = open_store(out), Layout(out)

    def pages() -> Iterator[list[ObjectInfo]]:
        for first in range(0, num_images, 5000):
            yield [ObjectInfo(uri=_uri(i), size_bytes=1) for i in range(first, min(first + 5000, num_images))]

    index = freeze_index(pages(), store=store, layout=layout, bundle_size=lambda _: BUNDLE, limit=None, listed_at=NOW)
    for bundle in index.bundles():
        _write(bundle, tags_per_image=tags_per_image, store=store, layout=layout)


def _uri(position: int) -> str:
    return f"s3://photos/2026/{position % 1000:03d}/{position:09d}.jpg"


def _write(bundle: Bundle, *, tags_per_image: int, store: Store, layout: Layout) -> None:
    positions = np.arange(bundle.first, bundle.first + bundle.num_images)
    failed = pa.array(positions % EVERY_FAILED == 0)
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
    tagged = np.repeat(np.flatnonzero(positions % EVERY_FAILED), tags_per_image)
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
    commit = Commit(
        part=bundle.id,
        first=bundle.first,
        num_images=n,
        num_tagged=n - len(errors),
        num_failed=len(errors),
        num_tags=m,
        tags_sha256=hashlib.sha256(files["tags"]).hexdigest(),
        errors_sha256=hashlib.sha256(files["errors"]).hexdigest(),
        failed_by_code={"truncated": len(errors)} if len(errors) else {},
    )
    files["images"] = parquet_bytes(images, metadata={COMMIT_KEY: json.dumps(asdict(commit))})
    for table, data in files.items():
        store.write(layout.part(table, bundle.id), data)


def _table(schema: pa.Schema, columns: dict[str, pa.Array]) -> pa.Table:
    """The table with these columns; others are null, or "" or false where null is not allowed."""
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

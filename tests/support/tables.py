"""Images for a run to tag, and SQL over the tables that it wrote."""

from __future__ import annotations

from pathlib import Path

import duckdb
from PIL import Image


def write_jpegs(folder: Path, num_images: int) -> Path:
    """Make the folder with that many small JPEGs, 0000.jpg and so on; return the folder."""
    folder.mkdir()
    for number in range(num_images):
        Image.new("RGB", (40 + number % 7, 30), (number % 256, 90, 30)).save(folder / f"{number:04d}.jpg")
    return folder


def query_tables(out: Path | str, sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query over the tables `images`, `tags` and `errors` of OUT.

    Reads the Parquet files directly, so that a test does not depend on `batchtag query`.
    """
    with duckdb.connect() as database:
        for table in ("images", "tags", "errors"):
            if f"from {table}" in sql:
                database.execute(f"create view {table} as from '{out}/{table}/*.parquet'")
        return database.execute(sql).fetchall()

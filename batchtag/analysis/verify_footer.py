"""The footers of Parquet files as `verify` checks them: the columns, and the commit in an images file."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.output.schemas import TABLES
from batchtag.output.types import Commit, part_id
from batchtag.output.writer import COMMIT_KEY


class UnreadableError(Exception):
    """A file that is not the Parquet file that it should be; the message is the reason."""


class InvalidCommitError(Exception):
    """An images file without a valid commit of its part in the footer; the message is the reason."""


def read_metadata(data: bytes, *, schema: pa.Schema | None, read_pages: bool) -> pq.FileMetaData:
    """Return the footer of a Parquet file.

    Raises UnreadableError for bytes that are not Parquet, for columns other than those of `schema`, and, with
    `read_pages`, for a damaged page.
    """
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            actual = file.schema_arrow.remove_metadata()
            if schema is not None and actual != schema:
                raise UnreadableError(f"its columns are not those of the table: {_describe_difference(actual, schema)}")
            if read_pages:
                for _ in file.iter_batches():
                    pass
            return file.metadata
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"cannot be read: {' '.join(str(error).split())}") from error


def _describe_difference(actual: pa.Schema, expected: pa.Schema) -> str:
    actual_columns, expected_columns = (set(map(str, schema)) for schema in (actual, expected))
    if actual_columns == expected_columns:
        return "they are in another order"
    return f"it has {sorted(actual_columns - expected_columns)} and lacks {sorted(expected_columns - actual_columns)}"


def parse_commit(metadata: pq.FileMetaData, part: str) -> Commit:
    """Return the commit in the footer of an images file. Raises InvalidCommitError."""
    text = (metadata.metadata or {}).get(COMMIT_KEY.encode())
    if text is None:
        raise InvalidCommitError(f"its footer has no {COMMIT_KEY}")
    try:
        commit = Commit.from_json(text)
    except (ValueError, TypeError) as error:
        raise InvalidCommitError(f"the {COMMIT_KEY} in its footer is not a commit: {error}") from error
    if commit.part != part or part_id(commit.first, commit.num_images) != part:
        raise InvalidCommitError(
            f"its footer is the commit of {commit.part}, {commit.num_images:,} images from {commit.first:,}"
        )
    missing = sorted(TABLES.keys() - {"images"} - commit.files.keys())
    if missing:
        raise InvalidCommitError(f"the commit in its footer does not name the file of {' and '.join(missing)}")
    return commit

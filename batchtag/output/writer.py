"""The writer of parts: one bundle's results as three Parquet files, the last of which is the commit.

Every part has all three files, also when one of them is empty, so that `tags/*.parquet` matches something in any engine
from the first commit on. A run that has lost its lease does not begin to write a part: if two complete versions of one
bundle overlapped, the digests in the footer could belong to the wrong one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.errors import Code, OutputError, StorageError
from batchtag.output.layout import Layout
from batchtag.output.schemas import errors_table, images_table, parquet_bytes, tags_table
from batchtag.output.types import Bundle, Commit, CommittedFile
from batchtag.storage import Store
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ImageResult, Status

COMMIT_KEY = "batchtag.commit"


class PartWriter:
    """Writes the parts of one run. Runs in the worker; safe to use from several threads."""

    def __init__(self, *, store: Store, layout: Layout, run_id: str, check_lease: Callable[[], None]) -> None:
        """`check_lease` raises LeaseLost when this run no longer holds OUT."""
        self._store = store
        self._layout = layout
        self._run_id = run_id
        self._check_lease = check_lease

    def find_commit(self, bundle: Bundle) -> Commit | None:
        """Return the commit of this bundle if its part exists already.

        It exists when a worker died between writing the part and reporting it.
        """
        try:
            return read_commit(self._layout.part("images", bundle.id), store=self._store)
        except StorageError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def write(self, bundle: Bundle, results: Sequence[ImageResult], *, tagged_at: datetime) -> Commit:
        """Commit one result for each position of the bundle, in order. Raises StorageError when a write fails."""
        positions = [result.ref.position for result in results]
        assert positions == list(range(bundle.first, bundle.first + bundle.num_images)), "a row was dropped or added"
        # 1. Everything is in memory before anything is written, because the footer holds the digests of the others.
        tables = {
            "tags": tags_table(results, run_id=self._run_id),
            "errors": errors_table(results, run_id=self._run_id),
        }
        files = {table: parquet_bytes(rows) for table, rows in tables.items()}
        commit = _make_commit(bundle, results, tables=tables, files=files)
        images = parquet_bytes(
            images_table(results, run_id=self._run_id, tagged_at=tagged_at), metadata={COMMIT_KEY: commit.to_json()}
        )
        # 2. The lease is checked as late as possible, so that a run that was declared dead does not overwrite a part.
        self._check_lease()
        # 3. Tags and errors. Without an images file they are debris, which the next run removes.
        for table, data in files.items():
            self._put(self._layout.part(table, bundle.id), data)
        # 4. The images file last: from here on the bundle is committed.
        self._put(self._layout.part("images", bundle.id), images)
        return commit

    def _put(self, uri: str, data: bytes) -> None:
        with_retries(lambda: self._store.write(uri, data), policy=WRITES)


def _make_commit(
    bundle: Bundle, results: Sequence[ImageResult], *, tables: Mapping[str, pa.Table], files: Mapping[str, bytes]
) -> Commit:
    codes = Counter(str(result.failure.code) for result in results if result.failure is not None)
    return Commit(
        part=bundle.id,
        first=bundle.first,
        num_images=len(results),
        num_tagged=sum(result.status is Status.TAGGED for result in results),
        num_failed=sum(result.status is Status.FAILED for result in results),
        num_tags=sum(result.num_tags for result in results),
        files={
            table: CommittedFile(sha256=hashlib.sha256(data).hexdigest(), rows=tables[table].num_rows)
            for table, data in files.items()
        },
        failed_by_code=dict(sorted(codes.items())),
    )


def read_commit(images_part: str, *, store: Store) -> Commit:
    """Return the commit in the footer of an images part.

    Raises StorageError (`not_found`) if the file does not exist, and OutputError if batchtag did not write it.
    """

    def read_footer() -> bytes:
        with store.open(images_part) as file:
            try:
                metadata = pq.read_metadata(file).metadata or {}
            except pa.ArrowInvalid:
                return b""
        return bytes(metadata.get(COMMIT_KEY.encode(), b""))

    text, _ = with_retries(read_footer)
    if not text:
        raise OutputError(f"{images_part} was not written by batchtag; move it away or choose another --out")
    return Commit.from_json(text)

"""Where tags go: the writer of parts.

Tags and errors first, the images part last: that file is the commit, and its footer says what the other two must hold.
Every part has all three files, also when one is empty, so that `tags/*.parquet` matches something in any engine from
the first commit on. A part that a fenced writer (one whose run was declared dead) would write is not begun: between two
complete versions of the same bundle, the digests in the footer would otherwise belong to the wrong one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from batchtag.errors import Code, OutputError, StorageError
from batchtag.output.layout import Layout
from batchtag.output.schemas import errors_table, images_table, num_tags, parquet_bytes, tags_table
from batchtag.output.types import Bundle, Commit
from batchtag.storage import Store
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ImageResult, Status

COMMIT_KEY = "batchtag.commit"


class PartWriter:
    """Writes the parts of one run. Runs in the worker; safe to use from several threads."""

    def __init__(self, *, store: Store, layout: Layout, run_id: str, may_write: Callable[[], None]) -> None:
        """`may_write` raises LeaseLost when this run is no longer the one that holds OUT."""
        self._store = store
        self._layout = layout
        self._run_id = run_id
        self._may_write = may_write

    def committed(self, bundle: Bundle) -> Commit | None:
        """The commit of this bundle's part, if it is there already (a worker died after writing, before saying so)."""
        try:
            return read_commit(self._layout.part("images", bundle.id), store=self._store)
        except StorageError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    def write(self, bundle: Bundle, outcomes: Sequence[ImageResult], *, tagged_at: datetime) -> Commit:
        """Commit one outcome per position of the bundle, in order. Raises StorageError when OUT does not take it."""
        positions = [outcome.ref.position for outcome in outcomes]
        assert positions == list(range(bundle.first, bundle.first + bundle.num_images)), "a row was dropped or added"
        tags = parquet_bytes(tags_table(outcomes, run_id=self._run_id))
        errors = parquet_bytes(errors_table(outcomes, run_id=self._run_id))
        commit = _commit(bundle, outcomes, tags=tags, errors=errors)
        footer = {COMMIT_KEY: json.dumps(asdict(commit))}
        images = parquet_bytes(images_table(outcomes, run_id=self._run_id, tagged_at=tagged_at), metadata=footer)
        self._may_write()
        for table, data in (("tags", tags), ("errors", errors), ("images", images)):
            self._put(self._layout.part(table, bundle.id), data)
        return commit

    def _put(self, uri: str, data: bytes) -> None:
        with_retries(lambda: self._store.write(uri, data), policy=WRITES)


def _commit(bundle: Bundle, outcomes: Sequence[ImageResult], *, tags: bytes, errors: bytes) -> Commit:
    codes = Counter(str(o.failure.code) for o in outcomes if o.failure is not None)
    return Commit(
        part=bundle.id,
        first=bundle.first,
        num_images=len(outcomes),
        num_tagged=sum(o.status is Status.TAGGED for o in outcomes),
        num_failed=sum(o.status is Status.FAILED for o in outcomes),
        num_tags=sum(num_tags(o) for o in outcomes),
        tags_sha256=hashlib.sha256(tags).hexdigest(),
        errors_sha256=hashlib.sha256(errors).hexdigest(),
        failed_by_code=dict(sorted(codes.items())),
    )


def read_commit(images_part: str, *, store: Store) -> Commit:
    """What the footer of an images part says.

    Raises StorageError (`not_found`) if there is no such file, and OutputError if it is not one of ours.
    """

    def footer() -> bytes:
        with store.open(images_part) as file:
            try:
                metadata = pq.read_metadata(file).metadata or {}
            except pa.ArrowInvalid:
                return b""
        return bytes(metadata.get(COMMIT_KEY.encode(), b""))

    text, _ = with_retries(footer)
    if not text:
        raise OutputError(f"{images_part} was not written by batchtag; move it away or choose another --out")
    return Commit(**json.loads(text))

"""A list of URIs that somebody else made: the source for a selection, an export of a database, yesterday's failures.

Every object must come once and in the manifest's order, but a set of 100 million URIs does not fit into a driver. So
the lines go through a DuckDB file in the temporary directory, which groups and sorts on disk with a fixed amount of
memory; URIs that come again are dropped, the first one wins, and their number is told. Nothing is opened but the
manifest: an object that is not there becomes a failure when it is fetched.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batchtag.config.source import ManifestSource
from batchtag.sources.credentials import carries_credentials, check_without_credentials, credentials_error
from batchtag.sources.listing import PAGE_IMAGES, named_object
from batchtag.sources.manifest_reader import Line, manifest_lines
from batchtag.storage import Store, absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.base import ObjectInfo

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)

MEMORY = "512MB"
"""What DuckDB may hold before it spills; beside it there is a batch of 10,000 lines."""


class ManifestListing:
    """Lists what a manifest names. After `pages` has begun, `num_repeated` says how many lines were dropped."""

    def __init__(self, spec: ManifestSource) -> None:
        check_without_credentials({"source.uri": spec.uri})
        self._spec = spec
        self.num_repeated = 0

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """See `Source`. Raises UsageError for a column that is not there, a line that cannot be read, a secret."""
        import duckdb

        with tempfile.TemporaryDirectory(prefix="batchtag-manifest-") as folder:
            path = Path(folder) / "lines.duckdb"
            with duckdb.connect(path, config={"memory_limit": MEMORY, "temp_directory": folder}) as database:
                self._load(database)
                self.num_repeated = self._count_repeated(database)
                which, order = ("semi join firsts using (line)", "order by line") if self.num_repeated else ("", "")
                result = database.execute(f"select uri, etag, size_bytes from lines {which} {order}")
                while page := result.fetchmany(PAGE_IMAGES):
                    yield [ObjectInfo(uri=uri, etag=etag, size_bytes=size) for uri, etag, size in page]

    def _load(self, database: duckdb.DuckDBPyConnection) -> None:
        database.execute("create table lines (line bigint, uri varchar, etag varchar, size_bytes bigint)")
        store = open_store(self._spec.uri, self._spec.storage_options)
        folder = _folder_of(self._spec.uri, store=store)
        first = 0
        for lines in manifest_lines(self._spec, store=store):
            batch = _resolved(lines, first=first, folder=folder, origin=self._spec.uri)
            database.register("batch", batch)
            database.execute("insert into lines from batch")
            database.unregister("batch")
            first += len(lines)

    def _count_repeated(self, database: duckdb.DuckDBPyConnection) -> int:
        database.execute("create table firsts as select min(line) as line from lines group by uri")
        counts = database.execute("select (select count(*) from lines) - (select count(*) from firsts)").fetchone()
        assert counts is not None, "a count always has a row"
        if counts[0]:
            _log.warning("%s: %s lines named a URI that had come before; dropped", self._spec.uri, f"{counts[0]:,}")
        return int(counts[0])


def _folder_of(uri: str, *, store: Store) -> str:
    """What relative URIs are relative to: the manifest's folder, or the manifest if it is a folder itself."""
    return uri.rpartition("/")[0] if named_object(uri, store=store) is not None else uri


def _resolved(lines: list[Line], *, first: int, folder: str, origin: str) -> pa.Table:
    """The lines that are not blank, numbered from `first`, URIs absolute. Raises UsageError for one with a secret."""
    numbered = [
        (number, _absolute(uri, folder), etag, size)
        for number, (uri, etag, size) in enumerate(lines, first)
        if uri.strip()
    ]
    for number, uri, _, _ in numbered:
        if carries_credentials(uri):
            raise credentials_error(f"{origin}: the URI in row {number + 1:,}")
    columns = zip(*numbered, strict=True) if numbered else [[]] * 4
    kinds = {"line": pa.int64(), "uri": pa.string(), "etag": pa.string(), "size_bytes": pa.int64()}
    return pa.table({name: pa.array(c, kind) for (name, kind), c in zip(kinds.items(), columns, strict=True)})


def _absolute(uri: str, folder: str) -> str:
    if scheme_of(uri) != "file":
        return uri
    is_whole = uri.startswith("/") or uri[:7].lower() == "file://"
    return absolute_uri(uri if is_whole else join_uri(folder, uri))

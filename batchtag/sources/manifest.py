"""A list of URIs from elsewhere: the source for a selection, an export of a database, the failures of an earlier run.

Every object must be listed once and in the order of the manifest, but a set of 100 million URIs does not fit into the
memory of a driver. So the lines go through a DuckDB file in the temporary directory, which groups and sorts on disk
with a fixed amount of memory. Of a repeated URI the first line counts; the others are dropped and their number is
logged. Only the manifest is read: an object that does not exist becomes a failure when it is fetched.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batchtag.config.source import ManifestSource
from batchtag.sources.listing import PAGE_IMAGES, find_object
from batchtag.sources.manifest_reader import ManifestLine, read_manifest
from batchtag.storage import Store, absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.base import ObjectInfo
from batchtag.storage.secrets import check_no_credentials, credentials_error, has_credentials

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)

DUCKDB_MEMORY = "512MB"
"""Memory that DuckDB may use before it spills to disk; a batch of 10,000 lines comes on top."""


class ManifestListing:
    """Lists the objects of a manifest. From the first page on, `num_repeated` is the number of dropped lines."""

    def __init__(self, spec: ManifestSource) -> None:
        """Raise UsageError if the manifest's URI contains a password."""
        check_no_credentials({"source.uri": spec.uri})
        self._spec = spec
        self.num_repeated = 0

    def pages(self) -> Iterator[list[ObjectInfo]]:
        """Implement `Source.pages`. Raises UsageError for a missing column, a line that cannot be read, or a secret."""
        import duckdb

        with tempfile.TemporaryDirectory(prefix="batchtag-manifest-") as folder:
            path = Path(folder) / "lines.duckdb"
            with duckdb.connect(path, config={"memory_limit": DUCKDB_MEMORY, "temp_directory": folder}) as database:
                self._load(database)
                self.num_repeated = self._count_repeated(database)
                only_first = "semi join firsts using (line) order by line" if self.num_repeated else ""
                result = database.execute(f"select uri, etag, size_bytes from lines {only_first}")
                while page := result.fetchmany(PAGE_IMAGES):
                    yield [ObjectInfo(uri=uri, etag=etag, size_bytes=size) for uri, etag, size in page]

    def _load(self, database: duckdb.DuckDBPyConnection) -> None:
        database.execute("create table lines (line bigint, uri varchar, etag varchar, size_bytes bigint)")
        store = open_store(self._spec.uri, self._spec.storage_options)
        folder = _base_folder(self._spec.uri, store=store)
        num_lines = 0
        for lines in read_manifest(self._spec, store=store):
            batch = _resolve_lines(lines, first=num_lines, folder=folder, manifest=self._spec.uri)
            database.register("batch", batch)
            database.execute("insert into lines from batch")
            database.unregister("batch")
            num_lines += len(lines)

    def _count_repeated(self, database: duckdb.DuckDBPyConnection) -> int:
        database.execute("create table firsts as select min(line) as line from lines group by uri")
        counts = database.execute("select (select count(*) from lines) - (select count(*) from firsts)").fetchone()
        assert counts is not None, "a count always has a row"
        if counts[0]:
            _log.warning(
                "%s: %s lines repeat a URI of an earlier line and are dropped", self._spec.uri, f"{counts[0]:,}"
            )
        return int(counts[0])


def _base_folder(uri: str, *, store: Store) -> str:
    """Return the folder that relative URIs start from: the manifest's folder, or the manifest if it is a folder."""
    return uri.rpartition("/")[0] if find_object(uri, store=store) is not None else uri


def _resolve_lines(lines: list[ManifestLine], *, first: int, folder: str, manifest: str) -> pa.Table:
    """Return the lines that are not blank, numbered from `first`, with absolute URIs.

    Raises UsageError for a URI that contains a secret.
    """
    numbered = [
        (number, _resolve_uri(uri, folder), etag, size)
        for number, (uri, etag, size) in enumerate(lines, first)
        if uri.strip()
    ]
    for number, uri, _, _ in numbered:
        if has_credentials(uri):
            raise credentials_error(f"{manifest}: the URI in row {number + 1:,}")
    columns = zip(*numbered, strict=True) if numbered else [[]] * 4
    types = {"line": pa.int64(), "uri": pa.string(), "etag": pa.string(), "size_bytes": pa.int64()}
    return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(types.items(), columns, strict=True)})


def _resolve_uri(uri: str, folder: str) -> str:
    if scheme_of(uri) != "file":
        return uri
    is_absolute = uri.startswith("/") or uri[:7].lower() == "file://"
    return absolute_uri(uri if is_absolute else join_uri(folder, uri))

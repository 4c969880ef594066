"""The local disk (or whatever is mounted there), with the guarantees of an object store.

A write goes to a temporary file in the same folder, which is synced and renamed, so a reader always finds a whole file,
also after a kill. The temporary name begins with a dot and ends in `.tmp`: no engine's glob takes it for a part, and
`is_unfinished_write` recognises it. An etag is the time of change and the size. They, not a lock, reveal a file that
changes while it is read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import BinaryIO, cast

from batchtag.errors import Code, StorageError
from batchtag.storage.base import ABSENT, Blob, ObjectInfo
from batchtag.storage.errors import etag_mismatch, range_past_end, too_large
from batchtag.storage.local_files import (
    check_is_file,
    etag_of,
    explain_errors,
    lock_file,
    modified_time,
    object_info,
    open_file,
    path_of,
    read_bytes,
    replace_file,
)
from batchtag.storage.local_listing import list_pages, root_folder
from batchtag.storage.parallel_listing import walk_folders

_LANES = 8
"""Number of folders listed at the same time."""
_UNFINISHED_WRITE = re.compile(r"(?:^|/)\.batchtag-[0-9a-f]{16}\.tmp\Z")


def is_unfinished_write(name: str) -> bool:
    """Whether a file's name (or path) is the temporary name of a killed write. It may be removed when no run writes."""
    return _UNFINISHED_WRITE.search(name) is not None


class LocalStore:
    """The local disk as a `Store`. A URI is an absolute path; a `file://` URI is accepted. Keeps no state."""

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        with open_file(uri) as (fd, status):
            _check_etag(uri, status, if_etag)
            if max_bytes is not None and status.st_size > max_bytes:
                raise too_large(uri, status.st_size, max_bytes)
            data = read_bytes(fd, 0, status.st_size)
            _check_unchanged(uri, status, fd=fd, is_whole=len(data) == status.st_size)
        return Blob(data=data, etag=etag_of(status), last_modified=modified_time(status))

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        with open_file(uri) as (fd, status):
            _check_etag(uri, status, if_etag)
            if offset_bytes + size_bytes > status.st_size:
                raise range_past_end(uri, offset_bytes, size_bytes, status.st_size)
            data = read_bytes(fd, offset_bytes, size_bytes)
            _check_unchanged(uri, status, fd=fd, is_whole=len(data) == size_bytes)
        return Blob(data=data, etag=etag_of(status), last_modified=modified_time(status))

    def stat(self, uri: str) -> ObjectInfo:
        with explain_errors(uri):
            status = os.stat(path_of(uri))
        check_is_file(uri, status)
        return object_info(uri, status)

    def write(self, uri: str, data: bytes) -> str:
        return replace_file(uri, data, newer_than=None)

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        with lock_file(uri):
            try:
                before = os.stat(path_of(uri))
            except FileNotFoundError:
                before = None
            etag = ABSENT if before is None else etag_of(before)
            if etag != expected:
                raise etag_mismatch(uri, etag, expected)
            return replace_file(uri, data, newer_than=before)

    def delete(self, uri: str) -> None:
        with explain_errors(uri), contextlib.suppress(FileNotFoundError):
            os.unlink(path_of(uri))

    def open(self, uri: str) -> BinaryIO:
        self.stat(uri)
        with explain_errors(uri):
            return cast(BinaryIO, open(path_of(uri), "rb"))

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        for page in list_pages(root_folder(uri)):
            if page.objects:
                yield page.objects

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]:
        return walk_folders(root_folder(uri), pages_of=list_pages, lanes=_LANES)


def _check_etag(uri: str, status: os.stat_result, expected: str) -> None:
    if expected and etag_of(status) != expected:
        raise etag_mismatch(uri, etag_of(status), expected)


def _check_unchanged(uri: str, before: os.stat_result, *, fd: int, is_whole: bool) -> None:
    if not is_whole or etag_of(os.fstat(fd)) != etag_of(before):
        raise StorageError(f"{uri}: changed while it was read", code=Code.CHANGED, transient=True)

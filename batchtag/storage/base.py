"""The protocol that every store keeps, and the records that stores return.

Knows nothing of images and jobs. An unknown etag is "", an unknown size is -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

from batchtag.errors import Code

ABSENT = "absent"
"""Value of `expected` in `write_if` for an object that must not exist yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What a store knows of one object. `uri` is its identity, exactly as the store has it."""

    uri: str
    etag: str = ""
    size_bytes: int = -1
    last_modified: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadableObject(ObjectInfo):
    """An entry of a listing that cannot be read, with the reason.

    Only the local disk has such entries: broken links, and names that are not UTF-8. `uri` is printable text, so it may
    differ from the name on the disk.
    """

    code: Code
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """The bytes of one object, and the etag and time of exactly these bytes. `attempts` is the number of tries."""

    data: bytes
    etag: str
    last_modified: datetime | None = None
    attempts: int = 1


class Store(Protocol):
    """One place that URIs point into. Safe to use from many threads.

    1. Every call is one attempt. A failure is a StorageError: `code` names it, and `transient` states whether another
       attempt may succeed. `retry.with_retries` makes the attempts.
    2. `read` returns the whole object with the etag of exactly these bytes. An object of more than `max_bytes` is
       `too_large`, which is noticed before the object is in memory. With `if_etag`, another version of the object is
       ConditionFailed.
    3. `write` is atomic: a reader sees either the old or the new object, whole, also after the writer was killed.
    4. `write_if` writes only if the object's etag is `expected` (ABSENT: if the object does not exist). Otherwise it
       raises ConditionFailed.
    5. `list_folder` yields the objects directly under a folder URI, sorted, in pages of bounded size. `walk` yields all
       objects under it, recursively; folders are listed in parallel, in an order that depends only on the keys. Both
       leave out zero-byte "folder marker" keys (which end in "/"). A folder that does not exist is `not_found`.
    6. `write` and `write_if` return the etag of the new object. `delete` succeeds for an object that does not exist.
    """

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob: ...

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob: ...

    def stat(self, uri: str) -> ObjectInfo: ...

    def write(self, uri: str, data: bytes) -> str: ...

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str: ...

    def delete(self, uri: str) -> None: ...

    def open(self, uri: str) -> BinaryIO: ...

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]: ...

    def walk(self, uri: str) -> Iterator[list[ObjectInfo]]: ...

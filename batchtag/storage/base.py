"""What a store is: the protocol that every kind keeps, and the records that it gives.

Knows no images and no jobs. An unknown etag is "", an unknown size is -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

ABSENT = "absent"
"""What `write_if` expects when the object must not exist yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """One object as a source found it, before it has a position.

    `uri` is its identity, exactly as the store has it. A member of a tar shard has `shard`, the URI to read from, and
    the `offset_bytes` of its content there. `problem` is not "" when the listing itself already shows that the
    object cannot be tagged; it is then "<code>: <message>".
    """

    uri: str
    etag: str = ""
    size_bytes: int = -1
    last_modified: datetime | None = None
    shard: str = ""
    offset_bytes: int = -1
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """The bytes of one object, with what the store said of exactly these bytes."""

    data: bytes
    etag: str
    last_modified: datetime | None = None
    attempts: int = 1


class Store(Protocol):
    """One place that URIs point into. Safe to use from many threads.

    1. Every call is one attempt. Trouble is a StorageError whose `code` names it and whose `transient` says whether
       trying again may help; `retry.with_retries` is what tries again.
    2. `read` gives the whole object with the etag of exactly these bytes; more than `max_bytes` is `too_large`, and
       is noticed before it is in memory. With `if_etag`, another version of the object is ConditionFailed.
    3. `write` is atomic: a reader sees the old object, or the new one, whole; a kill leaves one of the two.
    4. `write_if` writes only if the object's etag is `expected` (ABSENT: if there is none), else ConditionFailed.
    5. `list_folder` gives what lies directly under a folder URI, sorted, in pages of bounded size; `walk` gives all
       objects under it, recursively, folders listed in parallel, in an order that depends on nothing but the keys.
       Both give zero-byte "folder marker" keys (ending in "/") to nobody. A folder that does not exist is not_found.
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

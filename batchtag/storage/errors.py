"""The errors that every store words alike."""

from __future__ import annotations

from batchtag.errors import Code, ConditionFailed, StorageError


def too_large(uri: str, size_bytes: int, max_bytes: int) -> StorageError:
    """More bytes than the job allows; known before they are in memory."""
    return StorageError(
        f"{uri}: has {size_bytes:,} bytes, and the job allows {max_bytes:,}; raise decode.max_bytes to read it",
        code=Code.TOO_LARGE,
    )


def cut_short(uri: str, offset_bytes: int, size_bytes: int, end_bytes: int) -> StorageError:
    """A range that the object does not have."""
    return StorageError(
        f"{uri}: ends after {end_bytes:,} bytes, expected {size_bytes:,} from byte {offset_bytes:,}; it is truncated",
        code=Code.TRUNCATED,
    )


def changed(uri: str, found: str, expected: str) -> ConditionFailed:
    """Another version of the object than the caller knows."""
    return ConditionFailed(f"{uri}: somebody else wrote it; its etag is {found!r}, expected {expected!r}")


def no_object(uri: str) -> StorageError:
    """The error for an object that is not there."""
    return StorageError(f"{uri}: no such object", code=Code.NOT_FOUND)


def no_folder(uri: str) -> StorageError:
    """The error for a folder or prefix under which nothing lies."""
    return StorageError(f"{uri}: nothing lies there; check its name", code=Code.NOT_FOUND)


def short_body(uri: str, got_bytes: int, expected_bytes: int) -> StorageError:
    """The connection ended early; the object itself is whole."""
    return StorageError(
        f"{uri}: the answer ended after {got_bytes:,} of {expected_bytes:,} bytes",
        code=Code.UNREACHABLE,
        transient=True,
    )

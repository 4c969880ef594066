"""The errors that all stores word in the same way."""

from __future__ import annotations

from batchtag.errors import Code, ConditionFailed, StorageError


def too_large(uri: str, size_bytes: int, max_bytes: int) -> StorageError:
    """Build the error for an object of more bytes than the job allows."""
    return StorageError(
        f"{uri}: has {size_bytes:,} bytes, and the job allows {max_bytes:,}; raise decode.max_bytes to read it",
        code=Code.TOO_LARGE,
    )


def range_past_end(uri: str, offset_bytes: int, size_bytes: int, end_bytes: int) -> StorageError:
    """Build the error for a range of which the object, `end_bytes` long, does not have all bytes."""
    return StorageError(
        f"{uri}: ends after {end_bytes:,} bytes, expected {size_bytes:,} from byte {offset_bytes:,}; it is truncated",
        code=Code.TRUNCATED,
    )


def etag_mismatch(uri: str, actual: str, expected: str) -> ConditionFailed:
    """Build the error for an object of another version than the caller knows."""
    return ConditionFailed(f"{uri}: another process wrote it; its etag is {actual!r}, expected {expected!r}")


def no_object(uri: str) -> StorageError:
    """Build the error for an object that does not exist."""
    return StorageError(f"{uri}: no such object", code=Code.NOT_FOUND)


def no_folder(uri: str) -> StorageError:
    """Build the error for a folder or prefix without any object under it."""
    return StorageError(f"{uri}: no such folder or prefix; check its name", code=Code.NOT_FOUND)


def incomplete_body(uri: str, received_bytes: int, expected_bytes: int) -> StorageError:
    """Build the error for a connection that ended early. Transient: the object itself is whole."""
    return StorageError(
        f"{uri}: the response ended after {received_bytes:,} of {expected_bytes:,} bytes",
        code=Code.UNREACHABLE,
        transient=True,
    )

"""Reads the small JSON files that runs keep under OUT, and distinguishes an absent file from a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from batchtag.errors import Code, StorageError
from batchtag.storage.retry import with_retries

if TYPE_CHECKING:
    from batchtag.storage.base import Store

T = TypeVar("T")


def read_json(uri: str, *, store: Store, build: Callable[[dict[str, Any]], T]) -> tuple[T, str] | None:
    """Return the value that `build` makes of the file, and the file's etag; None if the file does not exist.

    Raises StorageError (`corrupt`) for a file that no run can have written.
    """
    try:
        blob, _ = with_retries(lambda: store.read(uri))
    except StorageError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
    try:
        return build(json.loads(blob.data)), blob.etag
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        message = f"{uri}: is damaged; no run writes such a file ({reason}). Restore it, or delete it"
        raise StorageError(message, code=Code.CORRUPT) from error

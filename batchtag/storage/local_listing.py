"""List folders of the local disk: any names, links that form a loop, files that nothing can read.

Names are bytes here: a name that is not UTF-8 is listed as an UnreadableObject instead of ending the listing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from batchtag.errors import Code
from batchtag.storage.base import ObjectInfo, UnreadableObject
from batchtag.storage.local_files import explain_errors, object_info, path_of, storage_error
from batchtag.storage.parallel_listing import FolderPage

PAGE_FILES = 1000
"""Maximum number of entries in a page of a listing."""

LocalFolder = tuple[bytes, tuple[tuple[int, int], ...]]
"""A path that ends in a slash, and (device, inode) of the folders above it, to notice a loop of links."""


def root_folder(uri: str) -> LocalFolder:
    """Return the folder at which a listing of `uri` starts."""
    return os.path.join(os.fsencode(path_of(uri)), b""), ()


def list_pages(folder: LocalFolder) -> Iterator[FolderPage[LocalFolder]]:
    """Yield the entries directly in a folder, in the order of the bytes of their paths (a folder's with its slash)."""
    path, ancestors = folder
    uri = _printable(path)
    with explain_errors(uri):
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            return
        with os.scandir(path) as entries:
            names = sorted(entry.name + b"/" if _is_folder(entry) else entry.name for entry in entries)
    for start in range(0, len(names), PAGE_FILES):
        page = names[start : start + PAGE_FILES]
        yield FolderPage(
            objects=[info for name in page if name[-1:] != b"/" and (info := _list_file(path + name))],
            folders=[(path + name, (*ancestors, identity)) for name in page if name[-1:] == b"/"],
        )


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _list_file(path: bytes) -> ObjectInfo | None:
    """Return the record of one directory entry; None for a pipe, a socket or a device."""
    uri = _printable(path)
    try:
        status = os.stat(path)
    except OSError as os_error:
        error = storage_error(uri, os_error)
        return UnreadableObject(uri=uri, code=error.code, message=error.message)
    if not stat.S_ISREG(status.st_mode):
        return None
    if uri.encode() != path:
        message = "the name is not UTF-8 (here with its bytes escaped); rename the file"
        return UnreadableObject(uri=uri, size_bytes=status.st_size, code=Code.BAD_NAME, message=message)
    return object_info(uri, status)


def _printable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")

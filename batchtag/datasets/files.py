"""Files of labelled data: list a folder, recognize the names of images, read small files whole.

Files in a folder whose name begins with a dot, or in macOS's `__MACOSX`, are ignored: tools leave thumbnails and copies
there (`.ipynb_checkpoints`), and those folders would become classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchtag.decoding.formats import IMAGE_EXTENSIONS
from batchtag.errors import Code, StorageError, UsageError
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.retry import with_retries

MAX_ANNOTATION_BYTES = 2 * 2**30
"""Largest annotation file that is read, in bytes. (COCO's largest has half a GB.)"""
TABLE_EXTENSIONS = (".parquet", ".pq", ".csv", ".jsonl", ".ndjson")
"""File extensions of tables, in lower case."""
CONCURRENT_READS = 16
"""Number of small files read at the same time: a bucket answers a request in 20 to 50 ms."""

_IMAGE_NAME = re.compile(rf"\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})\Z", re.IGNORECASE)
_IGNORED = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")


def is_image_name(name: str) -> bool:
    """Return whether a name has an image's extension, in upper or lower case."""
    return _IMAGE_NAME.search(name) is not None


def list_names(folder: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names of all objects below a folder, relative to it, sorted. Raises StorageError (`not_found`)."""
    start = len(with_slash(folder))
    pages = open_store(folder, options).walk(with_slash(folder))
    names = (info.uri[start:] for page in pages for info in page)
    return sorted(name for name in names if not _IGNORED.search(name))


def list_names_if_exists(folder: str, options: Mapping[str, Any]) -> list[str]:
    """Return the same as `list_names`, and an empty list if the folder does not exist."""
    try:
        return list_names(folder, options)
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return []


def with_slash(uri: str) -> str:
    """Return the URI of a folder with a slash at its end, which is then the prefix of everything below it."""
    return uri if uri.endswith("/") else f"{uri}/"


def parent_folder(uri: str) -> str:
    """Return the URI of the folder that contains an object."""
    return uri.rpartition("/")[0]


def file_stem(name: str) -> str:
    """Return a file's name without folders and extension: `a/b.c.jpg` gives `b.c`. Both slashes separate folders."""
    last = re.split(r"[/\\]", name)[-1]
    return last.rpartition(".")[0] or last


def resolve_name(name: str, *, folder: str) -> str:
    """Return the URI for a name in an annotation file: the name itself if it is absolute, else below `folder`."""
    if scheme_of(name) != "file":
        return name
    is_absolute = name.startswith("/") or name[:7].lower() == "file://"
    return absolute_uri(name) if is_absolute else join_uri(folder, name.removeprefix("./"))


def read_file(uri: str, options: Mapping[str, Any]) -> bytes:
    """Return the content of one annotation file. Raises StorageError."""
    store = open_store(uri, options)
    return with_retries(lambda: store.read(uri, max_bytes=MAX_ANNOTATION_BYTES))[0].data


def read_files(uris: Iterable[str], options: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the contents of files in their order, reading ahead. Raises StorageError at the first file that fails."""
    with ThreadPoolExecutor(CONCURRENT_READS, thread_name_prefix="annotations") as pool:
        yield from pool.map(lambda uri: read_file(uri, options), uris)


def decode_text(data: bytes, *, uri: str) -> str:
    """Decode UTF-8 with or without a byte order mark. Raises UsageError that names `uri`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: is not text in UTF-8 (byte {error.start:,}); save it as UTF-8") from error


def read_lines(uri: str, options: Mapping[str, Any]) -> list[str]:
    """Return the lines of a text file without surrounding white space; blank lines are left out."""
    return [line.strip() for line in decode_text(read_file(uri, options), uri=uri).splitlines() if line.strip()]

"""Files of labelled data: what lies in a folder, which of it are images, and small files read whole.

What lies in a folder whose name begins with a dot, and macOS's `__MACOSX`, is nobody's data: tools leave thumbnails and
copies there (`.ipynb_checkpoints`), and their folders would become classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batchtag.errors import Code, StorageError, UsageError
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.retry import with_retries

MAX_TEXT_BYTES = 2 * 2**30
"""An annotation file larger than that is not one (COCO's largest has half a GB)."""
TABLES = (".parquet", ".pq", ".csv", ".jsonl", ".ndjson")
"""How a table's name ends."""
READERS = 16
"""Small files read at a time: a bucket answers a request in 20 to 50 ms."""

_IMAGE = re.compile(
    r"\.(?:jpe?g|jpe|jfif|png|apng|gif|webp|avif|hei[cf]s?|tiff?|bmp|dib|p[pgbn]m|jp2|j2k|mpo|tga|pcx)\Z", re.IGNORECASE
)
_NOBODYS = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")


def is_image(name: str) -> bool:
    """Whether a name ends as those of images do, in any case."""
    return _IMAGE.search(name) is not None


def names_under(folder: str, options: Mapping[str, Any]) -> list[str]:
    """The names of all objects under a folder, relative to it, sorted. Raises StorageError (`not_found`)."""
    start = len(as_folder(folder))
    pages = open_store(folder, options).walk(as_folder(folder))
    return sorted(name for page in pages for one in page if not _NOBODYS.search(name := one.uri[start:]))


def names_if_there(folder: str, options: Mapping[str, Any]) -> list[str]:
    """As `names_under`; none if there is no such folder."""
    try:
        return names_under(folder, options)
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return []


def as_folder(uri: str) -> str:
    """The URI with the slash at its end that makes everything under it begin with it."""
    return uri if uri.endswith("/") else f"{uri}/"


def folder_of(uri: str) -> str:
    """The folder that an object lies in."""
    return uri.rpartition("/")[0]


def stem_of(name: str) -> str:
    """A file's name without its folders and its extension: `a/b.c.jpg` gives `b.c`."""
    last = re.split(r"[/\\]", name)[-1]
    return last.rpartition(".")[0] or last


def within(name: str, *, folder: str) -> str:
    """The URI that a name in an annotation file means: itself if it is whole, else below `folder`."""
    if scheme_of(name) != "file":
        return name
    is_whole = name.startswith("/") or name[:7].lower() == "file://"
    return absolute_uri(name) if is_whole else join_uri(folder, name.removeprefix("./"))


def read_file(uri: str, options: Mapping[str, Any]) -> bytes:
    """The content of one annotation file. Raises StorageError."""
    store = open_store(uri, options)
    return with_retries(lambda: store.read(uri, max_bytes=MAX_TEXT_BYTES))[0].data


def read_files(uris: Iterable[str], options: Mapping[str, Any]) -> Iterator[bytes]:
    """The contents of many, in their order, some of them read ahead. Raises StorageError at the first that fails."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="annotations") as pool:
        yield from pool.map(lambda uri: read_file(uri, options), uris)


def text_of(data: bytes, *, uri: str) -> str:
    """Text in UTF-8, with or without its mark. Raises UsageError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: is not text in UTF-8 (byte {error.start:,}); save it as UTF-8") from error


def lines_of(uri: str, options: Mapping[str, Any]) -> list[str]:
    """The lines of a text file that are not blank, without the white space around them."""
    return [line.strip() for line in text_of(read_file(uri, options), uri=uri).splitlines() if line.strip()]

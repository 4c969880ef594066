"""Every image opened once: is it there, does it decode, how large is it displayed, what is in it.

Of an image only these facts are kept, so a hundred thousand need no more memory than their names. A JPEG is decoded at
1/8, which reads every byte of it and so finds every break.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import Code, DecodeError, StorageError
from batchtag.storage import open_store
from batchtag.storage.retry import with_retries
from batchtag.types import InputResolution

Told = Callable[[int, int], None]
"""Hears of progress: images done, images in all."""

_ANY_SIZE = (InputResolution(mode="cover", shorter_px=1),)
_OF_THE_IMAGE = (Code.TOO_LARGE, Code.BAD_NAME, Code.EMPTY, Code.TRUNCATED)
"""What a store says of one object. Anything else (denied, unreachable) is trouble with the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What one image is: size in pixels as displayed, the EXIF orientation applied, sha256 of the object in hex.

    Where it could not be opened, `problem` is a field of `OnProblem`, and `detail` says why.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    content_hash: str = ""
    problem: str = ""
    detail: str = ""


def open_images(
    options_of: Mapping[str, Mapping[str, Any]], *, rules: DecodeRules, threads: int, told: Told | None = None
) -> dict[str, Opened]:
    """Each URI's image. `options_of` gives the storage options of each URI.

    Raises StorageError where a store does not answer, or may not be read. `told` is called in this thread.
    """
    opened: dict[str, Opened] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        results = pool.map(lambda uri: _open(uri, options_of[uri], rules), options_of)
        for number, (uri, one) in enumerate(zip(options_of, results, strict=True), 1):
            opened[uri] = one
            if told is not None:
                told(number, len(options_of))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return opened


def _open(uri: str, options: Mapping[str, Any], rules: DecodeRules) -> Opened:
    store = open_store(uri, options)
    try:
        data = with_retries(lambda: store.read(uri, max_bytes=rules.max_bytes))[0].data
    except StorageError as error:
        if error.code is Code.NOT_FOUND:
            return Opened(problem="missing_image", detail="is labelled, and is not there")
        if error.code not in _OF_THE_IMAGE:
            raise
        return Opened(problem="undecodable", detail=error.message.removeprefix(f"{uri}: "))
    try:
        image = decode(data, rules=rules, input_resolutions=_ANY_SIZE)
    except DecodeError as error:
        return Opened(problem="undecodable", detail=f"{error.code}: {error.message}")
    return Opened(
        width=image.width,
        height=image.height,
        orientation=image.orientation,
        content_hash=hashlib.sha256(data).hexdigest(),
    )

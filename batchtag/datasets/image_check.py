"""Open every image of a dataset once: whether it exists and decodes, its displayed size, the hash of its content.

Only these facts are kept, so a hundred thousand images need hardly more memory than their names. A JPEG is decoded at
1/8: that reads every byte and so finds all damage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import Code, StorageError
from batchtag.storage import open_store
from batchtag.storage.retry import with_retries
from batchtag.types import Failure, InputResolution

OnProgress = Callable[[int, int], None]
"""Called with the number of opened images and the number of all images."""

_ANY_SIZE = (InputResolution(mode="cover", shorter_px=1),)
"""A resolution that allows the decoder its smallest scale."""
_CODES_OF_ONE_OBJECT = (Code.TOO_LARGE, Code.BAD_NAME, Code.EMPTY, Code.TRUNCATED)
"""Storage errors that concern one object. All others (denied, unreachable) concern the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """Facts of one image: displayed size in pixels, applied EXIF orientation, sha256 of the object in hex.

    If the image could not be opened, `problem` is a field of `OnProblem`, and `detail` gives the reason.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    content_hash: str = ""
    problem: str = ""
    detail: str = ""


def read_image_facts(
    options_by_uri: Mapping[str, Mapping[str, Any]],
    *,
    rules: DecodeRules,
    threads: int,
    on_progress: OnProgress | None = None,
) -> dict[str, ImageFacts]:
    """Open each image and return its facts by URI. `options_by_uri` has the storage options of each URI.

    Raises StorageError if a store does not answer or denies access. Runs on the driver, in `threads` threads;
    `on_progress` is called in the calling thread.
    """
    facts_by_uri: dict[str, ImageFacts] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        results = pool.map(lambda uri: _read_facts(uri, options_by_uri[uri], rules), options_by_uri)
        for num_done, (uri, facts) in enumerate(zip(options_by_uri, results, strict=True), 1):
            facts_by_uri[uri] = facts
            if on_progress is not None:
                on_progress(num_done, len(options_by_uri))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return facts_by_uri


def _read_facts(uri: str, options: Mapping[str, Any], rules: DecodeRules) -> ImageFacts:
    store = open_store(uri, options)
    try:
        data = with_retries(lambda: store.read(uri, max_bytes=rules.max_bytes))[0].data
    except StorageError as error:
        if error.code is Code.NOT_FOUND:
            return ImageFacts(problem="missing_image", detail="is labelled but does not exist")
        if error.code not in _CODES_OF_ONE_OBJECT:
            raise
        return ImageFacts(problem="undecodable", detail=error.message.removeprefix(f"{uri}: "))
    image = decode(data, rules=rules, resolutions=_ANY_SIZE)
    if isinstance(image, Failure):
        return ImageFacts(problem="undecodable", detail=f"{image.code}: {image.message}")
    return ImageFacts(
        width=image.width,
        height=image.height,
        orientation=image.orientation,
        content_hash=hashlib.sha256(data).hexdigest(),
    )

"""Why bytes give no image: one `Failure` per reason, with a stable code and a message that names the remedy.

Pillow has no error codes, so for an exception of Pillow its type and text decide, and for a missing end the bytes
themselves.
"""

from __future__ import annotations

import re

from PIL import Image, UnidentifiedImageError

from batchtag.decoding.formats import IMAGE_FORMATS
from batchtag.decoding.headers import is_truncated
from batchtag.errors import Code
from batchtag.types import Failure, Stage

_TRUNCATED = re.compile(r"truncat|unexpected end|end of (file|data)|not enough|too short|incomplete|got 0|EOF", re.I)
"""What Pillow and its libraries write when the data end too early."""


def decode_failure(code: Code, message: str) -> Failure:
    """Return a failure of stage `decode`."""
    return Failure(stage=Stage.DECODE, code=code, message=message)


def format_not_allowed(name: str) -> Failure:
    """Return the failure of an image whose format is not among `decode.formats`."""
    message = f"{IMAGE_FORMATS[name].description}, which this job does not allow; add {name!r} to decode.formats"
    return decode_failure(Code.UNSUPPORTED, message)


def too_many_pixels(name: str, size: str, *, max_pixels: int) -> Failure:
    """Return the failure of an image that is larger than `max_pixels`; `size` is its size in words."""
    message = f"{IMAGE_FORMATS[name].description} of {size}; decode.max_pixels allows {max_pixels:,}"
    return decode_failure(Code.TOO_LARGE, message)


def explain_exception(error: Exception, *, name: str, data: bytes, max_pixels: int) -> Failure:
    """Return the failure for an exception that Pillow raised while it read `data` as the format `name`."""
    what = f"{IMAGE_FORMATS[name].description} of {len(data):,} bytes"
    why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its text contains the address of an object in memory
        why = "its header is invalid"
    if isinstance(error, MemoryError) or "out of memory" in why.lower():
        return decode_failure(Code.OUT_OF_MEMORY, f"{what}: not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"\((\d+) pixels\)", why)
        size = f"{int(pixels[1]):,} pixels" if pixels else "too many pixels"
        return too_many_pixels(name, size, max_pixels=max_pixels)
    if "MAX_TEXT" in why or "memory used in text" in why:
        return decode_failure(
            Code.TOO_LARGE, f"{what}: its text chunks are larger, unpacked, than Pillow allows: {why}"
        )
    # Pillow's decoders raise NotImplementedError for a variety of a format that they cannot read.
    if isinstance(error, NotImplementedError) or "unsupported" in why.lower():
        return decode_failure(Code.UNSUPPORTED, f"{what}, of a variety that Pillow cannot read: {why}")
    if _TRUNCATED.search(why) or is_truncated(name, data):
        return decode_failure(Code.TRUNCATED, f"{what} ends before its image does: {why}. Upload it again")
    return decode_failure(Code.CORRUPT, f"{what} is damaged: {why}")

"""Bytes of one object to upright RGB pixels, or a failure with a stable code. Knows nothing of URIs, jobs or Ray.

The first bytes decide the format (`formats`), and exactly one Pillow plugin then sees them: a broken PNG is a broken
PNG, not perhaps a TGA. Pillow's two process-wide switches are shared by all threads, so they are moved in one direction
only: its pixel limit may rise but never falls (ours is judged first, from the header), and its warnings stay ignored.
EXIF that cannot be read counts as orientation 1: the pixels are good, only a remark about them is not.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from batchtag.decoding.formats import (
    FORMATS,
    KINDS,
    is_cut_short,
    pixels_claimed,
    recognize,
    sniff,
    starts_like_an_image,
)
from batchtag.errors import Code, DecodeError
from batchtag.types import DecodedImage, InputResolution

__all__ = ["FORMATS", "MARGIN", "DecodeRules", "decode", "sniff"]

MARGIN = {"fit": 2.0, "stretch": 2.0, "cover": 1.5, "full": 1.0}
"""How many times the resolution a model resizes to must be left after DCT scaling, by the mode of its need.

Of the 31 photographs of ../shared/data/photos at exactly such a margin, a pixel differs from the full image resized
to the same size (torchvision, antialiased) on average by 1.0, 1.4 and 2.3 of 255 at 1/2, 1/4 and 1/8 with 2, by 1.3,
1.6 and 2.8 with 1.5, and by 2.7, 2.5 and 4.4 with 1; saving the photograph once more as JPEG at quality 90 makes 0.6.
Boxes are held against pixels, so detectors keep 2. For classifiers 230 photographs show no difference between 1.5 and
2 (`benchmarks.margins`, a published ImageNet network): the best label is the full image's for 97.8, 96.1 and 97.0 %
with 1.5 at 1/2, 1/4 and 1/8, for 97.0 and 97.8 % with 2 at 1/2 and 1/4, for 97.8 % of those saved once more at quality
80; and for all of those that it is sure of (a score of 0.3). What a phone takes, 12 megapixels, comes at 1/8 then: 20
ms instead of 26 for the decoder.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRules:
    """What may be decoded, and how; `spec.DecodeSpec` says what each means. Names of `formats` are keys of FORMATS."""

    formats: frozenset[str] = frozenset(name for name, on in FORMATS.items() if on)
    max_pixels: int = 178_956_970
    max_bytes: int = 256 * 2**20
    scaled: bool = True
    depth: Literal["clip", "scale"] = "clip"


def decode(data: bytes, *, rules: DecodeRules, input_resolutions: Sequence[InputResolution] = ()) -> DecodedImage:
    """The image as a person would see it: its first frame, upright, RGB uint8.

    Alpha is dropped and CMYK, LAB, palettes and (depth "clip") 16 bits become RGB exactly as Pillow's `convert("RGB")`
    does it. `pixels` is read-only where nothing forced a copy. With `input_resolutions`, a JPEG may come at 1/2, 1/4 or
    1/8 of its
    `width` and `height`, and still has MARGIN times what each need says. Raises DecodeError and nothing else. Runs in
    a CPU thread; Pillow decodes without the GIL, so threads scale.
    """
    _ignore_pillow_warnings()
    name = _admit(data, rules)
    try:
        return _decode_as(name, data, rules, input_resolutions)
    except DecodeError:
        raise
    # The one broad clause around one image: on hostile bytes Pillow's plugins raise whatever their arithmetic meets.
    except Exception as error:
        raise _explain(error, name, data, rules) from error


def _admit(data: bytes, rules: DecodeRules) -> str:
    """The format of bytes that may be opened. Raises DecodeError for all that need not be looked at more closely."""
    if not data:
        raise DecodeError("the object is empty (0 bytes)", code=Code.EMPTY)
    if len(data) > rules.max_bytes:
        message = f"the object has {len(data):,} bytes; decode.max_bytes allows {rules.max_bytes:,}"
        raise DecodeError(message, code=Code.TOO_LARGE)
    name = recognize(data)
    if not name and starts_like_an_image(data):
        raise DecodeError(f"the object ends after {len(data)} bytes, within its first header", code=Code.TRUNCATED)
    if not name:
        raise DecodeError(f"not an image that can be read: it looks like {sniff(data)}", code=Code.UNSUPPORTED)
    if name not in rules.formats and not (name == "jpeg" and "mpo" in rules.formats):
        raise _not_allowed(name)
    claimed = pixels_claimed(name, data)
    if claimed > rules.max_pixels:
        raise _too_many_pixels(name, f"{claimed:,} pixels", rules)
    return name


def _not_allowed(name: str) -> DecodeError:
    message = f"{KINDS[name].words}, which this job does not allow; add {name!r} to decode.formats to read it"
    return DecodeError(message, code=Code.UNSUPPORTED)


def _too_many_pixels(name: str, claim: str, rules: DecodeRules) -> DecodeError:
    message = f"{KINDS[name].words} of {claim}; decode.max_pixels allows {rules.max_pixels:,}"
    return DecodeError(message, code=Code.TOO_LARGE)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _decode_as(
    name: str, data: bytes, rules: DecodeRules, input_resolutions: Sequence[InputResolution]
) -> DecodedImage:
    _load_plugin(name)
    _raise_pillow_limit(rules.max_pixels)
    image: Image.Image
    with Image.open(io.BytesIO(data), formats=(KINDS[name].pillow,)) as image:
        name = "mpo" if image.format == "MPO" else name
        if name not in rules.formats:
            raise _not_allowed(name)
        width, height = image.size
        if width * height > rules.max_pixels:
            raise _too_many_pixels(name, f"{width:,} x {height:,} pixels", rules)
        orientation = _orientation(image)
        reduction = 1
        if rules.scaled and input_resolutions and name in ("jpeg", "mpo"):
            width, height = (height, width) if orientation >= 5 else (width, height)
            reduction = _reduction(width, height, input_resolutions)
        if reduction > 1:
            image.draft("RGB", (max(1, image.width // reduction), max(1, image.height // reduction)))
        rgb = _rgb(image, rules.depth)
        # TIFF has turned itself while loading and now says 1; PNG may have its EXIF behind the pixels and says it now.
        still_to_turn = _orientation(image)
        if still_to_turn != 1:
            rgb = rgb.transpose(_TURNS[still_to_turn])
    if reduction == 1:
        width, height = rgb.size
    return DecodedImage(
        pixels=np.asarray(rgb),
        width=width,
        height=height,
        format=name,
        orientation=orientation if orientation != 1 else still_to_turn,
    )


def _load_plugin(name: str) -> None:
    """Registers the one plugin, so that `Image.open` need not import all fifty. Python remembers, so it is cheap."""
    try:
        plugin = importlib.import_module(KINDS[name].plugin)
    except ImportError as error:
        message = f"{KINDS[name].words}, and {KINDS[name].plugin} is not installed here"
        hint = "; on every node: pip install 'batchtag[heif]'" if name == "heif" else ""
        raise DecodeError(message + hint, code=Code.UNSUPPORTED) from error
    if not getattr(plugin, "SUPPORTED", True):
        message = f"{KINDS[name].words}, and this build of Pillow lacks its decoder; install the wheel of Pillow"
        raise DecodeError(message, code=Code.UNSUPPORTED)
    if name == "heif" and "HEIF" not in Image.OPEN:
        plugin.register_heif_opener()


_limit_lock = threading.Lock()


def _raise_pillow_limit(max_pixels: int) -> None:
    """Lets Pillow open what our rules allow: it refuses above twice its limit, a global, which here only ever rises."""
    needed = (max_pixels + 1) // 2
    if Image.MAX_IMAGE_PIXELS is not None and needed > Image.MAX_IMAGE_PIXELS:
        with _limit_lock:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, needed)


_PILLOW_MODULES = r"(PIL|pillow_heif)\."


def _ignore_pillow_warnings() -> None:
    """Keeps Pillow's remarks about odd files out of the logs, in every thread.

    `warnings.catch_warnings` is not safe in threads, so the filter stays; it is put in front again when somebody, such
    as a test runner, has put another one before it: with "error" in front, a remark would break the decoding.
    """
    front: Any = warnings.filters[0] if warnings.filters else None
    if front is None or getattr(front[3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _orientation(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation that is still to be applied, 1 to 8; nonsense is 1, because cameras write 0."""
    marks = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
    if not hasattr(image, "tag_v2") and not any(mark in image.info for mark in marks):
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
        return int(value) if value in _TURNS else 1
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return 1


def _reduction(width: int, height: int, input_resolutions: Sequence[InputResolution]) -> int:
    """By how much the DCT may shrink an image of that displayed size: 1, 2, 4 or 8."""
    needed = max(
        MARGIN[input_resolution.mode] * input_resolution.scale(width, height) for input_resolution in input_resolutions
    )
    return next((by for by in (8, 4, 2) if by * needed <= 1.0), 1)


def _rgb(image: Image.Image, depth: Literal["clip", "scale"]) -> Image.Image:
    """The loaded pixels in RGB; no copy if they are already."""
    image.load()
    if image.mode == "RGB":
        return image
    if depth == "scale" and (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    # It changes no pixel of RGB, but Pillow would look up its colour, warn, and at worst give up.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _eight_bits(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey samples (H, W) of 16 bits, 32 bits or floating point, in 0 to 255.

    16 bits map 0..65535, whatever the image uses, so that images of a series stay comparable. Pillow has already
    brought a PGM of any maxval, and the channels of 16-bit RGB, to their full range. Wider integers count as 16 bits
    and floats as 0..1; only where a sample lies outside is the range the image's own minimum to maximum. NaN and
    infinities are black.
    """
    if samples.dtype.itemsize == 2:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = np.isfinite(samples)
    values = np.where(finite, samples, 0).astype(np.float64)
    low, high = 0.0, 1.0 if samples.dtype.kind == "f" else 65535.0
    if values.min() < low or values.max() > high:
        low, high = float(values[finite].min()), float(values[finite].max())
    values = (values - low) * (255.0 / ((high - low) or 1.0))
    return np.where(finite, np.rint(values), 0).astype(np.uint8)


_CUT_SHORT = re.compile(r"truncat|unexpected end|end of (file|data)|not enough|too short|incomplete|got 0|EOF", re.I)


def _explain(error: Exception, name: str, data: bytes, rules: DecodeRules) -> DecodeError:
    """The failure in our words: what kind of image, how many bytes, what went wrong.

    Pillow has no codes of its own, so its exception type and text decide, and for a missing end the bytes themselves.
    """
    what = f"{KINDS[name].words} of {len(data):,} bytes"
    why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its own text names an object in memory
        why = "its header makes no sense"
    if isinstance(error, MemoryError) or "out of memory" in why.lower():
        return DecodeError(f"{what}: no memory left to decode it", code=Code.OUT_OF_MEMORY)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        pixels = re.search(r"\((\d+) pixels\)", why)
        return _too_many_pixels(name, f"{int(pixels[1]):,} pixels" if pixels else "too many pixels", rules)
    if "MAX_TEXT" in why or "memory used in text" in why:
        return DecodeError(f"{what}: its text chunks unpack to more than a header may hold: {why}", code=Code.TOO_LARGE)
    # What Pillow's own decoders raise for a variety of a format that they cannot read; nothing of ours is unfinished.
    if isinstance(error, NotImplementedError) or "unsupported" in why.lower():
        return DecodeError(f"{what}, of a variety that Pillow cannot read: {why}", code=Code.UNSUPPORTED)
    if _CUT_SHORT.search(why) or is_cut_short(name, data):
        return DecodeError(f"{what} ends before its image does: {why}. Upload it again", code=Code.TRUNCATED)
    return DecodeError(f"{what} is damaged: {why}", code=Code.CORRUPT)

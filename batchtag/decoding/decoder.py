"""Decode the bytes of one object to upright RGB pixels, or to a failure with a stable code. Knows no URIs, jobs or Ray.

The first bytes decide the format (`recognition`), and exactly one Pillow plugin then opens them: a broken PNG is a
broken PNG, and no other plugin tries it as TGA. EXIF that cannot be read counts as orientation 1, because the pixels
are good and only their description is not.
"""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from batchtag.decoding.failures import decode_failure, explain_exception, format_not_allowed, too_many_pixels
from batchtag.decoding.formats import DEFAULT_FORMATS, IMAGE_FORMATS
from batchtag.decoding.headers import claimed_pixels
from batchtag.decoding.pillow_settings import ignore_warnings, raise_pixel_limit
from batchtag.decoding.recognition import describe_content, ends_within_signature, recognize_format
from batchtag.decoding.rgb import load_rgb
from batchtag.errors import Code
from batchtag.types import DecodedImage, Failure, InputResolution

MARGIN = {"fit": 2.0, "stretch": 2.0, "cover": 1.5, "full": 1.0}
"""Smallest allowed ratio of the decoded size to the size that a model resizes to, by `InputResolution.mode`.

Measured on the 31 photographs of ../shared/data/photos at exactly this margin. The mean difference of a pixel (of 255)
from the full image resized to the same size (torchvision, antialiased), by DCT scale:

| margin | 1/2 | 1/4 | 1/8 |
|--------|-----|-----|-----|
| 2      | 1.0 | 1.4 | 2.3 |
| 1.5    | 1.3 | 1.6 | 2.8 |
| 1      | 2.7 | 2.5 | 4.4 |

For comparison: saving the photograph once more as JPEG at quality 90 gives 0.6. Boxes are compared with pixels, so
detectors keep 2. For classifiers, 230 photographs (`benchmarks.margins`, a published ImageNet network) show no
difference between 1.5 and 2. The best label is that of the full image for 97.8, 96.1 and 97.0 % with 1.5 at 1/2, 1/4
and 1/8; for 97.0 and 97.8 % with 2 at 1/2 and 1/4; for 97.8 % of those saved once more at quality 80; and always where
the network is sure (a score of 0.3). With 1.5 a phone's photograph of 12 megapixels is decoded at 1/8: 20 ms instead of
26 ms.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRules:
    """What may be decoded, and how; `config.job.DecodeSpec` describes each field. `formats` are IMAGE_FORMATS keys."""

    formats: frozenset[str] = DEFAULT_FORMATS
    max_pixels: int = 178_956_970
    max_bytes: int = 256 * 2**20
    scaled: bool = True
    depth: Literal["clip", "scale"] = "clip"


def decode(data: bytes, *, rules: DecodeRules, resolutions: Sequence[InputResolution] = ()) -> DecodedImage | Failure:
    """Decode the first frame, upright, as RGB uint8; or return a failure of stage `decode`. Bytes never make it raise.

    Alpha is dropped. CMYK, LAB, palettes and (with depth "clip") 16 bits become RGB exactly as in Pillow's
    `convert("RGB")`. `pixels` is read-only if nothing forced a copy. With `resolutions`, a JPEG may be decoded at 1/2,
    1/4 or 1/8 of its `width` and `height`, but never below MARGIN times what each resolution asks for. Runs in a thread
    of the decode worker; Pillow decodes without the GIL, so threads scale.
    """
    ignore_warnings()
    name = _admit(data, rules)
    if isinstance(name, Failure):
        return name
    try:
        return _decode_with_pillow(name, data, rules, resolutions)
    # A broad `except`, around one image: on hostile bytes Pillow's plugins raise exceptions of any type.
    except Exception as error:
        return explain_exception(error, name=name, data=data, max_pixels=rules.max_pixels)


def _admit(data: bytes, rules: DecodeRules) -> str | Failure:
    """Return the name of the format if Pillow may open the bytes, otherwise the failure. Reads headers only."""
    if not data:
        return decode_failure(Code.EMPTY, "the object is empty (0 bytes)")
    if len(data) > rules.max_bytes:
        message = f"the object has {len(data):,} bytes; decode.max_bytes allows {rules.max_bytes:,}"
        return decode_failure(Code.TOO_LARGE, message)
    name = recognize_format(data)
    if not name and ends_within_signature(data):
        return decode_failure(Code.TRUNCATED, f"the object ends after {len(data)} bytes, inside its first header")
    if not name:
        return decode_failure(Code.UNSUPPORTED, f"not a readable image: it looks like {describe_content(data)}")
    if name not in rules.formats and not (name == "jpeg" and "mpo" in rules.formats):
        return format_not_allowed(name)
    num_pixels = claimed_pixels(name, data)
    if num_pixels > rules.max_pixels:
        return too_many_pixels(name, f"{num_pixels:,} pixels", max_pixels=rules.max_pixels)
    return name


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation."""


def _decode_with_pillow(
    name: str, data: bytes, rules: DecodeRules, resolutions: Sequence[InputResolution]
) -> DecodedImage | Failure:
    failure = _load_plugin(name)
    if failure is not None:
        return failure
    raise_pixel_limit(rules.max_pixels)
    image: Image.Image
    with Image.open(io.BytesIO(data), formats=(IMAGE_FORMATS[name].pillow_id,)) as image:
        name = "mpo" if image.format == "MPO" else name
        if name not in rules.formats:
            return format_not_allowed(name)
        width, height = image.size
        if width * height > rules.max_pixels:
            return too_many_pixels(name, f"{width:,} x {height:,} pixels", max_pixels=rules.max_pixels)
        orientation = _read_orientation(image)
        reduction = 1
        if rules.scaled and resolutions and name in ("jpeg", "mpo"):
            width, height = (height, width) if orientation >= 5 else (width, height)
            reduction = _choose_reduction(width, height, resolutions)
        if reduction > 1:
            image.draft("RGB", (max(1, image.width // reduction), max(1, image.height // reduction)))
        rgb = load_rgb(image, rules.depth)
        # Read the orientation again. Pillow has turned a TIFF while loading, so its value is now 1; a PNG may have its
        # EXIF behind the pixels, so its value is known only now.
        remaining = _read_orientation(image)
        if remaining != 1:
            rgb = rgb.transpose(_TRANSPOSITIONS[remaining])
    if reduction == 1:
        width, height = rgb.size
    return DecodedImage(
        pixels=np.asarray(rgb),
        width=width,
        height=height,
        format=name,
        orientation=orientation if orientation != 1 else remaining,
    )


def _load_plugin(name: str) -> Failure | None:
    """Register one Pillow plugin, so that `Image.open` does not import all fifty. Return a failure if it is missing."""
    image_format = IMAGE_FORMATS[name]
    try:
        plugin = importlib.import_module(image_format.plugin)
    except ImportError:
        message = f"{image_format.description}, and {image_format.plugin} is not installed here"
        hint = "; on every node: pip install 'batchtag[heif]'" if name == "heif" else ""
        return decode_failure(Code.UNSUPPORTED, message + hint)
    if not getattr(plugin, "SUPPORTED", True):
        message = f"{image_format.description}, and this build of Pillow has no decoder for it; install Pillow's wheel"
        return decode_failure(Code.UNSUPPORTED, message)
    if name == "heif" and "HEIF" not in Image.OPEN:
        plugin.register_heif_opener()
    return None


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF (or XMP) orientation that is still to be applied, 1 to 8; any other value counts as 1."""
    keys = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
    if not hasattr(image, "tag_v2") and not any(key in image.info for key in keys):
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
        return int(value) if value in _TRANSPOSITIONS else 1  # cameras write 0
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return 1


def _choose_reduction(width: int, height: int, resolutions: Sequence[InputResolution]) -> int:
    """Return by how much the DCT may shrink an image of that displayed size: 1, 2, 4 or 8."""
    needed_scale = max(MARGIN[resolution.mode] * resolution.scale(width, height) for resolution in resolutions)
    return next((reduction for reduction in (8, 4, 2) if reduction * needed_scale <= 1.0), 1)

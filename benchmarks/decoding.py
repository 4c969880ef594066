"""batchtag's decoder for benchmarks. All their images can be decoded; a failure ends the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.types import DecodedImage, Failure, InputResolution


def decode_readable(data: bytes, *, rules: DecodeRules, resolutions: Sequence[InputResolution] = ()) -> DecodedImage:
    """Decode as `decoder.decode` does. Raises ValueError for a failure, because it would make the rates too high."""
    image = decode(data, rules=rules, resolutions=resolutions)
    if isinstance(image, Failure):
        raise ValueError(f"an image of the benchmark cannot be decoded: {image.code}: {image.message}")
    return image

"""Facts that the header of an image gives without decoding: the number of pixels, and whether the file lacks its end.

The size is read here only for formats whose Pillow plugin allocates memory while it opens a file; for the others Pillow
gives the size before it allocates anything. Nothing here takes memory, whatever a header claims.
"""

from __future__ import annotations

from typing import Literal


def claimed_pixels(name: str, data: bytes) -> int:
    """Return width x height as the header has them, for WebP, GIF and ICO; 0 for other formats."""
    match name:
        case "webp" if data[12:16] == b"VP8X":
            return (_little_endian(data[24:27]) + 1) * (_little_endian(data[27:30]) + 1)
        case "webp" if data[12:16] == b"VP8L":
            bits = _little_endian(data[21:25])
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        case "webp":
            return (_little_endian(data[26:28]) & 0x3FFF) * (_little_endian(data[28:30]) & 0x3FFF)
        case "gif":
            return _little_endian(data[6:8]) * _little_endian(data[8:10])
        case "ico":
            entries = range(6, 6 + 16 * _little_endian(data[4:6]), 16)
            starts = [_little_endian(data[entry + 12 : entry + 16]) for entry in entries]
            return max((_icon_pixels(data, start) for start in starts if 0 < start < len(data)), default=0)
        case _:
            return 0


def _icon_pixels(data: bytes, start: int) -> int:
    if data.startswith(b"\x89PNG", start):
        return int.from_bytes(data[start + 16 : start + 20], "big") * int.from_bytes(
            data[start + 20 : start + 24], "big"
        )
    side = 2 if _little_endian(data[start : start + 4]) == 12 else 4
    width, height = (
        _little_endian(data[start + 4 : start + 4 + side]),
        _little_endian(data[start + 4 + side : start + 4 + 2 * side]),
    )
    return width * min(height, 2**32 - height) // 2 if side == 4 else width * height // 2


def _little_endian(data: bytes) -> int:
    return int.from_bytes(data, "little")


def is_truncated(name: str, data: bytes) -> bool:
    """Return whether a file that could not be decoded is truncated; False for formats that do not mark their end."""
    match name:
        case "jpeg" | "mpo":
            return b"\xff\xd9" not in data[-1024:]
        case "png":
            return b"IEND" not in data[-1024:]
        case "gif":
            return not data.rstrip(b"\0").endswith(b";")
        case "webp":
            return _little_endian(data[4:8]) + 8 > len(data)
        case "bmp":
            return _little_endian(data[2:6]) > len(data)
        case "tiff":
            order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
            return len(data) < 8 or int.from_bytes(data[4:8], order) >= len(data)
        case "avif" | "heif":
            return _last_box_end(data) > len(data) or b"mdat" not in data
        case "jpeg2000":
            return b"\xff\xd9" not in data[-1024:]
        case _:
            return False


def _last_box_end(data: bytes) -> int:
    """Return the offset at which the last top-level box of an ISO media file ends, by its own size field."""
    end = 0
    while end + 8 <= len(data):
        size = int.from_bytes(data[end : end + 4], "big")
        if size < 8:  # 0 means "up to the end of the file"; 1 means a size of 64 bits, which no image needs
            return len(data)
        end += size
    return end

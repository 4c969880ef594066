"""Which format the first bytes of an object announce, and a description of any other content for a message.

Only the bytes count, never a name. Nothing is decoded, so no header can make this module take memory. Each signature is
what the format's Pillow plugin accepts, no more and no less, because only that plugin opens the bytes afterwards.
"""

from __future__ import annotations

import re
import struct

from batchtag.decoding.formats import IMAGE_FORMATS

_SIGNATURES: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("jpeg", (b"\xff\xd8\xff",)),
    ("png", (b"\x89PNG\r\n\x1a\n",)),
    ("gif", (b"GIF87a", b"GIF89a")),
    ("tiff", (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")),
    ("bmp", (b"BM",)),
    ("dib", tuple(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))),
    ("ppm", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P0CMYK", b"Pf", b"PyP", b"PyRGBA", b"PyCMYK")),
    ("ico", (b"\0\0\1\0",)),
    ("jpeg2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ("pcx", (b"\n\0", b"\n\2", b"\n\3", b"\n\5")),
    ("dcx", (b"\xb1\x68\xde\x3a",)),
    ("sgi", (b"\x01\xda",)),
    ("sun", (b"\x59\xa6\x6a\x95",)),
    ("psd", (b"8BPS",)),
    ("msp", (b"DanM", b"LinS")),
    ("fits", (b"SIMPLE",)),
    ("xvthumb", (b"P7 332",)),
    ("xpm", (b"/* XPM */",)),
    ("qoi", (b"qoif",)),
    ("dds", (b"DDS ",)),
    ("icns", (b"icns",)),
)
"""First bytes by format. Formats without fixed first bytes have code in `recognize_format`."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_OTHER_CONTENT: tuple[tuple[str, int, tuple[bytes, ...]], ...] = (
    ("a PNG image whose first bytes were changed, as a transfer in text mode does", 1, (b"PNG\r", b"PNG\n")),
    ("a PDF document", 0, (b"%PDF",)),
    ("a PostScript drawing (EPS)", 0, (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    ("a video (QuickTime)", 4, (b"ftypqt", b"moov", b"mdat")),
    ("a camera's raw file (CR3)", 4, (b"ftypcrx",)),
    ("a video (MP4)", 4, (b"ftyp",)),
    ("a video (Matroska or WebM)", 0, (b"\x1aE\xdf\xa3",)),
    ("a video (MPEG)", 0, (b"\0\0\1\xb3", b"\0\0\1\xba")),
    ("a video (AVI)", 8, (b"AVI ",)),
    ("a sound (WAV)", 8, (b"WAVE",)),
    ("a sound (MP3)", 0, (b"ID3",)),
    ("a JPEG XL image", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("a Windows metafile (WMF or EMF)", 0, (b"\xd7\xcd\xc6\x9a", b"\1\0\0\0")),
    ("an HDF5 file", 0, (b"\x89HDF",)),
    ("a GRIB file", 0, (b"GRIB",)),
    ("a BUFR file", 0, (b"BUFR",)),
    ("a Blizzard texture (BLP)", 0, (b"BLP1", b"BLP2")),
    ("a FLI or FLC animation", 4, (b"\x11\xaf", b"\x12\xaf")),
    ("a ZIP archive or an Office document", 0, (b"PK\3\4", b"PK\5\6")),
    ("a gzip archive", 0, (b"\x1f\x8b",)),
    ("a zstd archive", 0, (b"\x28\xb5\x2f\xfd",)),
    ("a tar archive", 257, (b"ustar",)),
    ("a Parquet file", 0, (b"PAR1",)),
    ("a program (ELF)", 0, (b"\x7fELF",)),
)
"""Content that is not an image we read: its description, the offset of its signature, and the signatures."""


def recognize_format(data: bytes) -> str:
    """Return our name of the format that the first bytes announce, "" for none.

    An MPO is a "jpeg" here, because only its content after the first image tells them apart.
    """
    for name, signatures in _SIGNATURES:
        if data.startswith(signatures):
            return name
    if data[:4] == b"RIFF" and data[8:16] in (b"WEBPVP8 ", b"WEBPVP8X", b"WEBPVP8L"):
        return "webp"
    if data[4:8] == b"ftyp":
        return _recognize_iso_media(data)
    if data.startswith(b"\0\0\2\0") and data[4:6] != b"\0\0":  # with a count of 0 it is a TGA without a colour map
        return "cur"
    if data.startswith((b"#define", b"\n#define", b"/*")) and re.search(rb"#define\s+\S*_width\s", data[:4096]):
        return "xbm"
    # TGA comes last: it has no signature, and its header is the weakest evidence.
    return "tga" if _is_tga(data) else ""


def _recognize_iso_media(data: bytes) -> str:
    brand = data[8:12]
    if brand in (b"avif", b"avis"):
        return "avif"
    if brand not in _HEIC_BRANDS:
        return ""
    # mif1 and msf1 only mean "some coded image"; the compatible brands say which.
    compatible = data[16 : min(int.from_bytes(data[:4], "big"), 512)]
    is_avif = brand in (b"mif1", b"msf1") and (b"avif" in compatible or b"avis" in compatible)
    return "avif" if is_avif else "heif"


def _is_tga(data: bytes) -> bool:
    """Return whether the 18 bytes of a TGA header agree with each other; 1 in 100,000 random files passes."""
    if len(data) < 18:
        return False
    _, has_map, kind, _, map_length, map_depth, _, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    depth_fits = depth in {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}.get(kind & 7, ())
    map_fits = map_depth in (16, 24, 32) if has_map == 1 else has_map == map_length == 0
    return kind in (1, 2, 3, 9, 10, 11) and depth_fits and map_fits and width * height > 0 and flags < 0x40


def describe_content(data: bytes) -> str:
    """Return a noun phrase for a message: "a PDF document", "text (HTML)", "a video (MP4)"."""
    name = recognize_format(data)
    if name:
        return IMAGE_FORMATS[name].description
    for description, offset, signatures in _OTHER_CONTENT:
        if data.startswith(signatures, offset):
            return description
    head = data[:512]
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", head, re.IGNORECASE):
        return "text (HTML)"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(\?xml|svg|!--)", head, re.IGNORECASE):
        return "an SVG drawing" if b"<svg" in data[:4096] else "text (XML)"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    return "text" if _is_text(head) else f"unknown content (first bytes {head[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    return head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head)


def ends_within_signature(data: bytes) -> bool:
    """Return whether the bytes are the beginning of an image signature and the object ends before the rest of it."""
    return any(
        len(signature) > len(data) and signature.startswith(data)
        for _, signatures in _SIGNATURES
        for signature in signatures
    )

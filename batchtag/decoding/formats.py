"""What the first bytes of an object say: which image format, how large an image, and whether its end is missing.

Reads headers and decodes nothing, so it takes no memory whatever a header claims. Only the bytes count, never a name.
One table says which formats exist for us, which plugin of Pillow reads each and which are on by default: those that
Pillow decodes in-process, from one file, with the size in the header and without a history of hangs. Never offered are
EPS, WMF, PDF (other programs), HDF5, GRIB, BUFR (only a name in Pillow), FLI, BLP, McIDAS (hung or crashed 11.3).
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple


class Kind(NamedTuple):
    """A format as Pillow has it: the id for `Image.open`, the module that registers it, whether it is on by default."""

    pillow: str
    plugin: str
    words: str
    on: bool = True


KINDS = {
    "jpeg": Kind("JPEG", "PIL.JpegImagePlugin", "a JPEG image"),
    "mpo": Kind("JPEG", "PIL.JpegImagePlugin", "an MPO image (several JPEGs in one file)"),
    "png": Kind("PNG", "PIL.PngImagePlugin", "a PNG image"),
    "gif": Kind("GIF", "PIL.GifImagePlugin", "a GIF image"),
    "webp": Kind("WEBP", "PIL.WebPImagePlugin", "a WebP image"),
    "avif": Kind("AVIF", "PIL.AvifImagePlugin", "an AVIF image"),
    "heif": Kind("HEIF", "pillow_heif", "a HEIC image"),
    "tiff": Kind("TIFF", "PIL.TiffImagePlugin", "a TIFF image"),
    "bmp": Kind("BMP", "PIL.BmpImagePlugin", "a BMP image"),
    "dib": Kind("DIB", "PIL.BmpImagePlugin", "a DIB image (a BMP without its file header)"),
    "ppm": Kind("PPM", "PIL.PpmImagePlugin", "a PPM, PGM, PBM or PFM image"),
    "ico": Kind("ICO", "PIL.IcoImagePlugin", "a Windows icon"),
    "cur": Kind("CUR", "PIL.CurImagePlugin", "a Windows cursor"),
    "jpeg2000": Kind("JPEG2000", "PIL.Jpeg2KImagePlugin", "a JPEG 2000 image"),
    "tga": Kind("TGA", "PIL.TgaImagePlugin", "a TGA image"),
    "pcx": Kind("PCX", "PIL.PcxImagePlugin", "a PCX image"),
    "dcx": Kind("DCX", "PIL.DcxImagePlugin", "a DCX image (several PCX in one file)"),
    "sgi": Kind("SGI", "PIL.SgiImagePlugin", "an SGI image"),
    "sun": Kind("SUN", "PIL.SunImagePlugin", "a Sun raster image"),
    "psd": Kind("PSD", "PIL.PsdImagePlugin", "a Photoshop document"),
    "msp": Kind("MSP", "PIL.MspImagePlugin", "a Microsoft Paint image"),
    "fits": Kind("FITS", "PIL.FitsImagePlugin", "a FITS image"),
    "xvthumb": Kind("XVTHUMB", "PIL.XVThumbImagePlugin", "an XV thumbnail"),
    "xbm": Kind("XBM", "PIL.XbmImagePlugin", "an X11 bitmap"),
    "xpm": Kind("XPM", "PIL.XpmImagePlugin", "an X11 pixel map"),
    "qoi": Kind("QOI", "PIL.QoiImagePlugin", "a QOI image"),
    "dds": Kind("DDS", "PIL.DdsImagePlugin", "a DDS texture", on=False),  # hung Pillow 11.3 on hostile files
    "icns": Kind("ICNS", "PIL.IcnsImagePlugin", "an Apple icon", on=False),  # its size is not in the header
}

FORMATS: dict[str, bool] = {name: kind.on for name, kind in KINDS.items()}
"""Our name of every format that a job may allow, and whether it is allowed by default."""


# What each plugin of Pillow accepts, neither more nor less; TGA has no magic bytes and is asked last.
_MAGICS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
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
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_STRANGERS: tuple[tuple[str, int, tuple[bytes, ...]], ...] = (
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


def recognize(data: bytes) -> str:
    """Our name of the format that the first bytes announce, "" for none. An MPO is a "jpeg" until it is opened."""
    for name, magics in _MAGICS:
        if data.startswith(magics):
            return name
    if data[:4] == b"RIFF" and data[8:16] in (b"WEBPVP8 ", b"WEBPVP8X", b"WEBPVP8L"):
        return "webp"
    if data[4:8] == b"ftyp":
        return _recognize_box_file(data)
    if data.startswith(b"\0\0\2\0") and data[4:6] != b"\0\0":  # with a count of 0 it is a TGA without a colour map
        return "cur"
    if data.startswith((b"#define", b"\n#define", b"/*")) and re.search(rb"#define\s+\S*_width\s", data[:4096]):
        return "xbm"
    return "tga" if _is_tga(data) else ""


def _recognize_box_file(data: bytes) -> str:
    brand = data[8:12]
    if brand in (b"avif", b"avis"):
        return "avif"
    if brand not in _HEIC_BRANDS:
        return ""
    # mif1 and msf1 say only "some coded image"; the compatible brands say which.
    compatible = data[16 : min(int.from_bytes(data[:4], "big"), 512)]
    is_avif = brand in (b"mif1", b"msf1") and (b"avif" in compatible or b"avis" in compatible)
    return "avif" if is_avif else "heif"


def _is_tga(data: bytes) -> bool:
    """Whether the 18 bytes of a TGA header agree with each other, which 1 in 100,000 random files do."""
    if len(data) < 18:
        return False
    _, has_map, kind, _, map_length, map_depth, _, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    depth_fits = depth in {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}.get(kind & 7, ())
    map_fits = map_depth in (16, 24, 32) if has_map == 1 else has_map == map_length == 0
    return kind in (1, 2, 3, 9, 10, 11) and depth_fits and map_fits and width * height > 0 and flags < 0x40


def sniff(data: bytes) -> str:
    """What these bytes look like, in words for a message: "a PDF document", "text (HTML)", "a video (MP4)"."""
    name = recognize(data)
    if name:
        return KINDS[name].words
    for words, offset, magics in _STRANGERS:
        if data.startswith(magics, offset):
            return words
    head = data[:512]
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", head, re.IGNORECASE):
        return "text (HTML)"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(\?xml|svg|!--)", head, re.IGNORECASE):
        return "an SVG drawing" if b"<svg" in data[:4096] else "text (XML)"
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    return "text" if _is_text(head) else f"nothing known here (first bytes {head[:8].hex(' ')})"


def _is_text(head: bytes) -> bool:
    return head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head)


def starts_like_an_image(data: bytes) -> bool:
    """Whether a few bytes are the beginning of a first header of an image, and nothing else came."""
    return any(len(magic) > len(data) and magic.startswith(data) for _, magics in _MAGICS for magic in magics)


def pixels_claimed(name: str, data: bytes) -> int:
    """Pixels according to the header, for the formats whose plugin takes memory when it opens a file; 0 for others."""
    match name:
        case "webp" if data[12:16] == b"VP8X":
            return (_little(data[24:27]) + 1) * (_little(data[27:30]) + 1)
        case "webp" if data[12:16] == b"VP8L":
            bits = _little(data[21:25])
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        case "webp":
            return (_little(data[26:28]) & 0x3FFF) * (_little(data[28:30]) & 0x3FFF)
        case "gif":
            return _little(data[6:8]) * _little(data[8:10])
        case "ico":
            starts = [_little(data[at + 12 : at + 16]) for at in range(6, 6 + 16 * _little(data[4:6]), 16)]
            return max((_pixels_of_icon(data, start) for start in starts if 0 < start < len(data)), default=0)
        case _:
            return 0


def _pixels_of_icon(data: bytes, start: int) -> int:
    if data.startswith(b"\x89PNG", start):
        return int.from_bytes(data[start + 16 : start + 20], "big") * int.from_bytes(
            data[start + 20 : start + 24], "big"
        )
    side = 2 if _little(data[start : start + 4]) == 12 else 4
    width, height = _little(data[start + 4 : start + 4 + side]), _little(data[start + 4 + side : start + 4 + 2 * side])
    return width * min(height, 2**32 - height) // 2 if side == 4 else width * height // 2


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def is_cut_short(name: str, data: bytes) -> bool:
    """Whether a file that could not be decoded lacks its end, for the formats that mark it."""
    match name:
        case "jpeg" | "mpo":
            return b"\xff\xd9" not in data[-1024:]
        case "png":
            return b"IEND" not in data[-1024:]
        case "gif":
            return not data.rstrip(b"\0").endswith(b";")
        case "webp":
            return _little(data[4:8]) + 8 > len(data)
        case "bmp":
            return _little(data[2:6]) > len(data)
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
    """Where the last top-level box of an ISO media file says it ends."""
    end = 0
    while end + 8 <= len(data):
        size = int.from_bytes(data[end : end + 4], "big")
        if size < 8:  # 0 is "to the end of the file", 1 a size of 64 bits, which no image needs
            return len(data)
        end += size
    return end

"""Odd images, made when a test asks for them: nothing is stored. Each function gives the bytes of one file.

The image behind most of them is `corners`: red, green, blue and white quarters, so that a test can say where the
image's top left has gone.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Top left red, top right green, bottom left blue, bottom right white."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def gradient(width: int = 640, height: int = 480) -> Image.Image:
    """Smooth colours with fine detail on them, for what must survive scaling."""
    y, x = np.mgrid[0:height, 0:width]
    bands = (x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 128 + 90 * np.sin(x / 9) * np.cos(y / 7))
    return Image.fromarray(np.dstack(bands).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    return encoded(image or corners(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def exif(orientation: int | str) -> bytes:
    """A minimal EXIF block, written by hand because Pillow refuses to write nonsense. Text becomes an ASCII tag."""
    if isinstance(orientation, str):
        text = orientation.encode()[:3].ljust(4, b"\0")
        entry = struct.pack("<HHI", 0x0112, 2, 4) + text
    else:
        entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + struct.pack("<I", 0)


def oriented_jpeg(orientation: int | str) -> bytes:
    return jpeg(exif=exif(orientation))


def xmp_oriented_jpeg(orientation: int) -> bytes:
    return jpeg(xmp=f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode())


def oriented_tiff(orientation: int) -> bytes:
    return encoded(corners(), "TIFF", tiffinfo={0x0112: orientation})


def png_with_exif_last(orientation: int) -> bytes:
    """A PNG whose eXIf chunk follows the pixels, as the standard allows."""
    plain = encoded(corners(), "PNG")
    end = plain.rindex(b"IEND") - 4
    return plain[:end] + png_chunk(b"eXIf", exif(orientation)[6:]) + plain[end:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size, and next to nothing after it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


def png_text_bomb() -> bytes:
    """A small PNG whose compressed text chunk unpacks to 64 MiB."""
    plain = encoded(corners(), "PNG")
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 2**20)))
    return plain[:33] + bomb + plain[33:]


def bombs(width: int, height: int) -> dict[str, bytes]:
    """By format, a small file whose header claims an image of that size (sides below 16,384)."""
    tiff = encoded(corners(), "TIFF")
    for tag, side in ((256, width), (257, height)):
        at = tiff.index(struct.pack("<H", tag), struct.unpack_from("<I", tiff, 4)[0])
        tiff = tiff[: at + 2] + struct.pack("<HII", 4, 1, side) + tiff[at + 12 :]
    icon_entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 100, 22)
    icon = b"\0\0\1\0\1\0" + icon_entry
    bitmap_header = struct.pack("<IiiHHIIIIII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)
    lossy, lossless = encoded(corners(), "WEBP"), encoded(corners(), "WEBP", lossless=True)
    vp8l_size = struct.pack("<I", (width - 1) | (height - 1) << 14)
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + _three(width - 1) + _three(height - 1)
    extended = b"RIFF" + struct.pack("<I", len(lossy) - 8 + 18) + b"WEBP" + canvas + lossy[12:]
    plain_jpeg = jpeg()
    frame = plain_jpeg.index(b"\xff\xc0") + 5
    return {
        "png": png_header(width, height),
        "jpeg": plain_jpeg[:frame] + struct.pack(">HH", height, width) + plain_jpeg[frame + 4 :],
        "gif": _patched(encoded(corners(), "GIF"), 6, struct.pack("<HH", width, height)),
        "bmp": _patched(encoded(corners(), "BMP"), 18, struct.pack("<ii", width, height)),
        "tiff": tiff,
        "webp lossy": _patched(lossy, 26, struct.pack("<HH", width, height)),
        "webp lossless": _patched(lossless, 21, vp8l_size),
        "webp extended": extended,
        "ico of png": icon + png_header(width, height),
        "ico of dib": icon + bitmap_header + bytes(200),
        "ppm": f"P6 {width} {height} 255\n".encode() + bytes(100),
        "tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 24, 0) + bytes(100),
        "qoi": b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + bytes(100),
        "psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3) + bytes(100),
        "sgi": struct.pack(">HBBHHHH", 474, 0, 1, 3, width, height, 3) + bytes(600),
        "avif": _resized_avif(width, height),
    }


def _three(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _patched(data: bytes, at: int, replacement: bytes) -> bytes:
    return data[:at] + replacement + data[at + len(replacement) :]


def _resized_avif(width: int, height: int) -> bytes:
    data = encoded(corners(), "AVIF")
    return _patched(data, data.index(b"ispe") + 8, struct.pack(">II", width, height))


def in_many_formats() -> dict[str, bytes]:
    """The corners in every format that Pillow can write losslessly or nearly so, by our name of the format."""
    image = corners()
    icon = image.resize((32, 24), Image.Resampling.NEAREST)
    return {
        "jpeg": jpeg(),
        "png": encoded(image, "PNG"),
        "gif": encoded(image, "GIF"),
        "webp": encoded(image, "WEBP", lossless=True),
        "avif": encoded(image, "AVIF", quality=95, subsampling="4:4:4"),
        "tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(image, "BMP"),
        "dib": encoded(image, "DIB"),
        "ppm": encoded(image, "PPM"),
        "ico": encoded(icon, "ICO", sizes=[(32, 24)]),
        "jpeg2000": encoded(image, "JPEG2000"),
        "tga": encoded(image, "TGA"),
        "pcx": encoded(image, "PCX"),
        "sgi": encoded(image, "SGI"),
        "qoi": encoded(image, "QOI"),
        "mpo": encoded(image, "MPO", save_all=True, append_images=[corners(32, 32)], quality=95, subsampling=0),
    }


def in_rare_formats() -> dict[str, bytes]:
    """A 16 x 16 image whose upper half is darker than its lower, in formats that few write any more."""
    rgb = Image.new("RGB", (16, 16), WHITE)
    rgb.paste((0, 0, 0), (0, 0, 16, 8))
    icon = encoded(rgb, "ICO", sizes=[(16, 16)], bitmap_format="bmp")
    rows = ",\n".join(['"' + "a" * 16 + '"'] * 8 + ['"' + "b" * 16 + '"'] * 8)
    return {
        "xbm": encoded(rgb.convert("1"), "XBM"),
        "msp": encoded(rgb.convert("1"), "MSP"),
        "xpm": f'/* XPM */\nstatic char *x[] = {{\n"16 16 2 1",\n"a c #000000",\n"b c #FFFFFF",\n{rows}\n}};'.encode(),
        "sun": struct.pack(">8I", 0x59A66A95, 16, 16, 24, 768, 1, 0, 0) + rgb.tobytes(),
        "cur": _patched(icon, 2, b"\2"),
        "dcx": struct.pack("<III", 0x3ADE68B1, 12, 0) + encoded(rgb, "PCX"),
        "fits": _fits(np.asarray(rgb.convert("L"))[::-1]),
        "xvthumb": b"P7 332\n#END_OF_COMMENTS\n16 16 255\n" + bytes(128) + b"\xff" * 128,
    }


def _fits(grey: np.ndarray) -> bytes:
    """`grey` is stored as FITS has it, the bottom row first."""
    height, width = grey.shape
    infos = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", f"NAXIS1  = {width}", f"NAXIS2  = {height}", "END"]
    return "".join(info.ljust(80) for info in infos).ljust(2880).encode() + grey.tobytes()


def animated(format: str) -> bytes:
    """Three frames, of which the corners are the first."""
    options = {"lossless": True} if format == "WEBP" else {}
    rest = [Image.new("RGB", (64, 48), color) for color in (BLUE, WHITE)]
    return encoded(corners(), format, save_all=True, append_images=rest, duration=100, **options)


def odd_modes() -> dict[str, bytes]:
    """Images whose file holds no 8-bit RGB."""
    rgb = gradient(96, 64)
    grey16 = (np.arange(96 * 64, dtype=np.uint32).reshape(64, 96) * 10).astype(np.uint16)
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    palette = rgb.quantize(64)
    return {
        "grey": encoded(rgb.convert("L"), "PNG"),
        "grey jpeg": jpeg(rgb.convert("L")),
        "bilevel": encoded(rgb.convert("1"), "PNG"),
        "grey alpha": encoded(alpha.convert("LA"), "PNG"),
        "alpha": encoded(alpha, "PNG"),
        "alpha webp": encoded(alpha, "WEBP", lossless=True),
        "palette": encoded(palette, "PNG"),
        "palette with one transparent colour": encoded(palette, "PNG", transparency=3),
        "palette with alpha": encoded(palette, "PNG", transparency=bytes(range(64))),
        "grey with a transparent level": encoded(rgb.convert("L"), "PNG", transparency=7),
        "cmyk": jpeg(rgb.convert("CMYK")),
        "cmyk tiff": encoded(rgb.convert("CMYK"), "TIFF"),
        "ycck": ycck_jpeg(rgb),
        "lab": encoded(Image.merge("LAB", rgb.split()), "TIFF"),
        "16-bit png": encoded(Image.fromarray(grey16), "PNG"),
        "16-bit tiff": encoded(Image.fromarray(grey16), "TIFF"),
        "32-bit tiff": encoded(Image.fromarray(grey16.astype(np.int32)), "TIFF"),
        "float tiff": encoded(Image.fromarray(grey16.astype(np.float32) / 65535), "TIFF"),
        "one pixel": encoded(Image.new("RGB", (1, 1), RED), "PNG"),
        "progressive": jpeg(rgb, progressive=True),
    }


def ycck_jpeg(image: Image.Image) -> bytes:
    """A CMYK JPEG whose Adobe marker says YCCK, so that libjpeg must convert the colours as it does for Photoshop's."""
    data = jpeg(image.convert("CMYK"))
    marker = data.index(b"Adobe")
    return _patched(data, marker + 11, b"\2")

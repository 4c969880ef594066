"""Table of the image formats: our name of each, the Pillow plugin that reads it, its file extensions.

A format is on by default if Pillow decodes it in-process, from one file, with the size in the header and without a
history of hangs. Never offered are EPS, WMF and PDF (Pillow starts other programs), HDF5, GRIB and BUFR (Pillow only
has their names), FLI, BLP and McIDAS (hung or crashed Pillow 11.3). `recognition` and `headers` read the bytes.
"""

from __future__ import annotations

from typing import NamedTuple


class ImageFormat(NamedTuple):
    """The facts of one format.

    `pillow_id` is the id for `Image.open`, `plugin` the module that registers it, `description` a noun phrase for
    messages. `extensions` are in lower case, without the dot, separated by spaces; the files of a format without
    extensions are only tagged if a job's `include` names them. With `is_default` a job allows the format unless
    `decode.formats` leaves it out.
    """

    pillow_id: str
    plugin: str
    description: str
    extensions: str = ""
    is_default: bool = True


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "jpeg": ImageFormat("JPEG", "PIL.JpegImagePlugin", "a JPEG image", "jpg jpeg jpe jfif pjpeg pjp"),
    "mpo": ImageFormat("JPEG", "PIL.JpegImagePlugin", "an MPO image (several JPEGs in one file)", "mpo"),
    "png": ImageFormat("PNG", "PIL.PngImagePlugin", "a PNG image", "png apng"),
    "gif": ImageFormat("GIF", "PIL.GifImagePlugin", "a GIF image", "gif"),
    "webp": ImageFormat("WEBP", "PIL.WebPImagePlugin", "a WebP image", "webp"),
    "avif": ImageFormat("AVIF", "PIL.AvifImagePlugin", "an AVIF image", "avif avifs"),
    "heif": ImageFormat("HEIF", "pillow_heif", "a HEIC image", "heic heics heif heifs hif"),
    "tiff": ImageFormat("TIFF", "PIL.TiffImagePlugin", "a TIFF image", "tif tiff"),
    "bmp": ImageFormat("BMP", "PIL.BmpImagePlugin", "a BMP image", "bmp"),
    "dib": ImageFormat("DIB", "PIL.BmpImagePlugin", "a DIB image (a BMP without its file header)", "dib"),
    "ppm": ImageFormat("PPM", "PIL.PpmImagePlugin", "a PPM, PGM, PBM or PFM image", "ppm pgm pbm pnm pfm"),
    "ico": ImageFormat("ICO", "PIL.IcoImagePlugin", "a Windows icon", "ico"),
    "cur": ImageFormat("CUR", "PIL.CurImagePlugin", "a Windows cursor"),
    "jpeg2000": ImageFormat("JPEG2000", "PIL.Jpeg2KImagePlugin", "a JPEG 2000 image", "jp2 j2k jpx jpf jpc j2c"),
    "tga": ImageFormat("TGA", "PIL.TgaImagePlugin", "a TGA image", "tga"),
    "pcx": ImageFormat("PCX", "PIL.PcxImagePlugin", "a PCX image", "pcx"),
    "dcx": ImageFormat("DCX", "PIL.DcxImagePlugin", "a DCX image (several PCX in one file)"),
    "sgi": ImageFormat("SGI", "PIL.SgiImagePlugin", "an SGI image", "sgi"),
    "sun": ImageFormat("SUN", "PIL.SunImagePlugin", "a Sun raster image"),
    "psd": ImageFormat("PSD", "PIL.PsdImagePlugin", "a Photoshop document", "psd"),
    "msp": ImageFormat("MSP", "PIL.MspImagePlugin", "a Microsoft Paint image"),
    "fits": ImageFormat("FITS", "PIL.FitsImagePlugin", "a FITS image", "fits"),
    "xvthumb": ImageFormat("XVTHUMB", "PIL.XVThumbImagePlugin", "an XV thumbnail"),
    "xbm": ImageFormat("XBM", "PIL.XbmImagePlugin", "an X11 bitmap"),
    "xpm": ImageFormat("XPM", "PIL.XpmImagePlugin", "an X11 pixel map"),
    "qoi": ImageFormat("QOI", "PIL.QoiImagePlugin", "a QOI image", "qoi"),
    # Pillow 11.3 hung on hostile DDS files.
    "dds": ImageFormat("DDS", "PIL.DdsImagePlugin", "a DDS texture", is_default=False),
    # The size of an Apple icon is not in its header.
    "icns": ImageFormat("ICNS", "PIL.IcnsImagePlugin", "an Apple icon", is_default=False),
}
"""Every format that a job may allow, by our name of it."""

DEFAULT_FORMATS: frozenset[str] = frozenset(
    name for name, image_format in IMAGE_FORMATS.items() if image_format.is_default
)
"""Names of the formats that a job allows by default."""

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    extension for image_format in IMAGE_FORMATS.values() for extension in image_format.extensions.split()
)
"""File extensions of images, in lower case without the dot; the only list, for sources and for labelled data."""

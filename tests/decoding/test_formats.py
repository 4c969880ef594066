"""The table of formats, and the recognition of a format by its first bytes."""

from __future__ import annotations

import random

import pytest

from batchtag.datasets.files import is_image_name
from batchtag.decoding.formats import IMAGE_EXTENSIONS, IMAGE_FORMATS
from batchtag.decoding.recognition import describe_content, recognize_format
from batchtag.sources.globs import name_filter
from tests.support import images

OF_VERSION_0_1 = """
    jpg jpeg jpe jfif pjpeg pjp mpo png apng gif webp avif avifs heic heics heif heifs hif tif tiff bmp dib
    ppm pgm pbm pnm pfm ico jp2 j2k jpx jpf jpc j2c tga pcx sgi psd fits qoi
"""


def test_sources_and_datasets_take_the_same_names_for_images() -> None:
    is_source_image = name_filter(include=[], exclude=[])
    others = {"txt", "xml", "json", "svg", "pdf", "mp4", "jpg.part", "jpgx", ""}
    for extension in {*IMAGE_EXTENSIONS, *map(str.upper, IMAGE_EXTENSIONS), *others}:
        name = f"folder/name.{extension}"
        is_image = extension.lower() in IMAGE_EXTENSIONS
        assert (is_source_image(name), is_image_name(name)) == (is_image, is_image), name


def test_every_extension_of_version_0_1_still_names_an_image() -> None:
    assert set(OF_VERSION_0_1.split()) <= IMAGE_EXTENSIONS


def test_extensions_are_in_lower_case_without_a_dot_and_belong_to_one_format() -> None:
    extensions = [extension for each in IMAGE_FORMATS.values() for extension in each.extensions.split()]
    assert len(extensions) == len(set(extensions))
    assert all(extension.isalnum() and extension.islower() for extension in extensions)


@pytest.mark.parametrize(("name", "data"), images.in_many_formats().items())
def test_the_first_bytes_of_a_file_decide_its_format(name: str, data: bytes) -> None:
    expected = "jpeg" if name == "mpo" else name
    assert recognize_format(data) == expected
    assert describe_content(data) == IMAGE_FORMATS[expected].description


def test_unknown_content_is_described_by_its_first_bytes() -> None:
    assert describe_content(b"\x01\x02\x03") == "unknown content (first bytes 01 02 03)"


def test_random_bytes_are_hardly_ever_recognized() -> None:
    rng = random.Random(7)
    num_recognized = sum(not describe_content(rng.randbytes(64)).startswith("unknown") for _ in range(20_000))
    assert num_recognized < 20

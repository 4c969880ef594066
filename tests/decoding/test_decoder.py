"""Any bytes become upright RGB pixels or a failure with a stable code."""

from __future__ import annotations

import csv
import io
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchtag.decoding.decoder import MARGIN, DecodeRules
from batchtag.decoding.decoder import decode as decode_or_fail
from batchtag.decoding.formats import DEFAULT_FORMATS, IMAGE_FORMATS
from batchtag.errors import Code
from batchtag.types import DecodedImage, Failure, InputResolution, Stage
from tests.support import images

RULES = DecodeRules()
TINY = InputResolution(mode="cover", shorter_px=20)


def decode(data: bytes, *, rules: DecodeRules = RULES, resolutions: Sequence[InputResolution] = ()) -> DecodedImage:
    """The image; a failure fails the test."""
    image = decode_or_fail(data, rules=rules, resolutions=resolutions)
    assert isinstance(image, DecodedImage), image
    return image


def failure_of(data: bytes, rules: DecodeRules = RULES) -> Failure:
    """The failure; an image fails the test."""
    failure = decode_or_fail(data, rules=rules)
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.attempts) == (Stage.DECODE, 1)
    return failure


def quarters(image: DecodedImage) -> list[tuple[int, ...]]:
    """The colours of the four quarters, top left first, row by row, each channel 0 or 255."""
    height, width, _ = image.pixels.shape
    centres = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(255 if value > 127 else 0 for value in image.pixels[centre].tolist()) for centre in centres]


UPRIGHT = [images.RED, images.GREEN, images.BLUE, images.WHITE]
DISPLAYED = {
    1: UPRIGHT,
    2: [images.GREEN, images.RED, images.WHITE, images.BLUE],
    3: [images.WHITE, images.BLUE, images.GREEN, images.RED],
    4: [images.BLUE, images.WHITE, images.RED, images.GREEN],
    5: [images.RED, images.BLUE, images.GREEN, images.WHITE],
    6: [images.BLUE, images.RED, images.WHITE, images.GREEN],
    7: [images.WHITE, images.GREEN, images.BLUE, images.RED],
    8: [images.GREEN, images.WHITE, images.RED, images.BLUE],
}
"""The displayed quarters of an image that is stored as UPRIGHT, by orientation, from the EXIF standard."""
ORIENTED = {
    "jpeg": images.oriented_jpeg,
    "xmp": images.xmp_oriented_jpeg,
    "tiff": images.oriented_tiff,
    "png with its exif last": images.png_with_exif_last,
}
"""Files with an orientation, by where they store it."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED)
def test_an_image_of_any_exif_orientation_is_decoded_upright(kind: str, orientation: int) -> None:
    image = decode(ORIENTED[kind](orientation))
    assert quarters(image) == DISPLAYED[orientation]
    assert (image.width, image.height) == ((48, 64) if orientation >= 5 else (64, 48))
    assert image.orientation == orientation
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535, "6", "up"])
def test_an_invalid_orientation_counts_as_1(orientation: int | str) -> None:
    image = decode(images.oriented_jpeg(orientation))
    assert quarters(image) == UPRIGHT
    assert image.orientation == 1


@pytest.mark.parametrize("block", [b"Exif\0\0garbage, not a TIFF", b"Exif\0\0II*\0", images.exif(6)[:-9]])
def test_a_broken_exif_block_counts_as_orientation_1(block: bytes) -> None:
    assert quarters(decode(images.jpeg(exif=block))) == UPRIGHT


@pytest.mark.parametrize(("name", "data"), images.in_many_formats().items())
def test_every_format_decodes_to_the_same_image(name: str, data: bytes) -> None:
    image = decode(data)
    assert quarters(image) == UPRIGHT
    assert image.format == name


@pytest.mark.parametrize(("name", "data"), images.in_rare_formats().items())
def test_a_rare_format_is_decoded(name: str, data: bytes) -> None:
    image = decode(data)
    assert (image.format, image.width, image.height) == (name, 16, 16)
    assert (image.pixels[:8].max(), image.pixels[8:].min()) == (0, 255)


def test_a_heic_decodes_to_the_same_image() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra 'heif' is not installed")
    buffer = io.BytesIO()
    try:
        pillow_heif.from_pillow(images.corners()).save(buffer, quality=90)
    except (RuntimeError, KeyError) as error:
        pytest.skip(f"this build of pillow-heif cannot write HEIC: {error}")
    image = decode(buffer.getvalue())
    assert (quarters(image), image.format) == (UPRIGHT, "heif")


def test_a_heic_without_its_plugin_is_a_failure_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    failure = failure_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert failure.code is Code.UNSUPPORTED
    assert "pip install 'batchtag[heif]'" in failure.message


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_is_decoded_to_its_first_frame(format: str) -> None:
    assert quarters(decode(images.animated(format))) == UPRIGHT


@pytest.mark.parametrize(("name", "data"), images.odd_modes().items())
def test_depth_clip_equals_the_conversion_of_pillow(name: str, data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data).pixels, expected, strict=True)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_depth_scale_maps_the_full_16_bit_range(format: str) -> None:
    levels = np.array([[0, 128, 129, 257, 32896, 65279, 65535]], np.uint16)
    data = images.encoded(Image.fromarray(levels), format)
    grey = decode(data, rules=DecodeRules(depth="scale")).pixels
    assert grey[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255]
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 1] == grey[..., 2]).all()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[-10, 0, 10]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0, 1, np.inf]], np.float32), [0, 0, 255, 0]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[7, 7]], np.int32), [0, 0]),
    ],
)
def test_depth_scale_uses_the_range_of_the_sample_type_or_else_of_the_image(
    samples: np.ndarray, expected: list[int]
) -> None:
    image = decode(images.encoded(Image.fromarray(samples), "TIFF"), rules=DecodeRules(depth="scale"))
    assert image.pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", Code.EMPTY, "0 bytes"),
        (b"\xff\xd8", Code.TRUNCATED, "2 bytes"),
        (b"just some notes, saved as holiday.jpg\n", Code.UNSUPPORTED, "text"),
        (b"<!DOCTYPE html><html><body>404", Code.UNSUPPORTED, "text (HTML)"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", Code.UNSUPPORTED, "SVG"),
        (b"%PDF-1.7\n%", Code.UNSUPPORTED, "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", Code.UNSUPPORTED, "EPS"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", Code.UNSUPPORTED, "a video (MP4)"),
        (b"PK\3\4" + bytes(40), Code.UNSUPPORTED, "ZIP"),
        (bytes(4096), Code.UNSUPPORTED, "zero bytes"),
        (b"DDS " + bytes(200), Code.UNSUPPORTED, "add 'dds' to decode.formats"),
        (images.png_text_bomb(), Code.TOO_LARGE, "text chunks"),
    ],
)
def test_content_that_is_not_an_image_becomes_a_failure_with_a_code_and_a_description(
    data: bytes, code: Code, word: str
) -> None:
    failure = failure_of(data)
    assert failure.code is code
    assert word in failure.message


def test_an_image_in_a_format_that_the_job_does_not_allow_is_unsupported() -> None:
    for name, data in images.in_many_formats().items():
        assert failure_of(data, DecodeRules(formats=RULES.formats - {name})).code is Code.UNSUPPORTED, name


TRUNCATABLE = [
    "jpeg",
    "png",
    "gif",
    "webp",
    "avif",
    "tiff",
    "bmp",
    "jpeg2000",
    "qoi",
    "tga",
    "ppm",
    "sgi",
    "pcx",
    "mpo",
    "ico",
]


@pytest.mark.parametrize("name", TRUNCATABLE)
def test_a_file_truncated_anywhere_is_decoded_or_becomes_a_failure(name: str) -> None:
    data = images.in_many_formats()[name]
    for length in range(1, len(data), max(1, len(data) // 60)):
        check_result(data[:length])


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "avif", "bmp"])
def test_a_truncated_file_of_a_common_format_has_the_code_truncated(name: str) -> None:
    data = images.encoded(images.gradient(96, 64), name.upper())
    for length in range(20, len(data) * 9 // 10, max(1, len(data) // 40)):
        failure = failure_of(data[:length])
        assert failure.code is Code.TRUNCATED, (length, failure.message)


def test_a_progressive_jpeg_without_its_last_scans_has_the_code_truncated() -> None:
    data = images.jpeg(images.gradient(), progressive=True)
    assert failure_of(data[: len(data) // 2]).code is Code.TRUNCATED


def check_result(data: bytes) -> None:
    """The decoder returns an image, or a failure whose message does not name an object in memory."""
    result = decode_or_fail(data, rules=DecodeRules(max_pixels=4_000_000), resolutions=[TINY])
    if isinstance(result, Failure):
        assert isinstance(result.code, Code)
        assert result.message
        assert " at 0x" not in result.message


@pytest.mark.parametrize("name", TRUNCATABLE)
def test_a_file_with_changed_bytes_is_decoded_or_becomes_a_failure(name: str) -> None:
    rng, data = random.Random(name), images.in_many_formats()[name]
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(min(len(data), rng.choice((64, 400, len(data)))))] = rng.randrange(256)
        check_result(bytes(damaged))


@pytest.mark.parametrize(("name", "data"), images.bombs(3000, 2000).items())
def test_an_image_whose_header_claims_more_than_max_pixels_is_too_large(name: str, data: bytes) -> None:
    assert failure_of(data, DecodeRules(max_pixels=3000 * 2000 - 1)).code is Code.TOO_LARGE


IN_LITTLE_MEMORY = """
import resource, sys
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.types import Failure
from tests.support import images

bombs = images.bombs(16000, 12000)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 100 * 2**20,) * 2)
for name, data in bombs.items():
    failure = decode(data, rules=DecodeRules())
    assert isinstance(failure, Failure)
    print(name, failure.code, sep=": ")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to know the memory in use")
def test_a_decompression_bomb_of_any_format_fails_before_memory_is_allocated() -> None:
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", IN_LITTLE_MEMORY]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.split("\n")[:-1] == [f"{name}: too_large" for name in images.bombs(16, 12)]


def test_an_object_of_more_than_max_bytes_is_too_large() -> None:
    data = images.jpeg()
    assert failure_of(data, DecodeRules(max_bytes=len(data) - 1)).code is Code.TOO_LARGE
    assert decode(data, rules=DecodeRules(max_bytes=len(data))).width == 64


def test_rules_may_allow_more_pixels_than_pillow_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for data in images.in_many_formats().values():
        assert decode(data).width in (32, 64)
    assert Image.MAX_IMAGE_PIXELS is not None
    assert RULES.max_pixels <= 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [
        ([], (900, 1200)),
        ([InputResolution(mode="cover", shorter_px=301)], (900, 1200)),
        ([InputResolution(mode="cover", shorter_px=300)], (450, 600)),
        ([InputResolution(mode="cover", shorter_px=224), InputResolution(mode="cover", shorter_px=50)], (450, 600)),
        ([InputResolution(mode="cover", shorter_px=150)], (225, 300)),
        ([InputResolution(mode="cover", shorter_px=151)], (450, 600)),
        ([InputResolution(mode="cover", shorter_px=75)], (113, 150)),
        ([InputResolution(mode="fit", shorter_px=320, longer_px=300)], (450, 600)),
        ([InputResolution(mode="fit", shorter_px=320, longer_px=301)], (900, 1200)),
        (
            [
                InputResolution(mode="fit", shorter_px=112, longer_px=9999),
                InputResolution(mode="cover", shorter_px=150),
            ],
            (225, 300),
        ),
        ([InputResolution(mode="stretch", shorter_px=225, longer_px=225)], (450, 600)),
        ([InputResolution(mode="fit", shorter_px=800, longer_px=1333)], (900, 1200)),
        ([InputResolution(mode="full"), InputResolution(mode="cover", shorter_px=10)], (900, 1200)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_keeps_the_margin_of_every_model(
    resolutions: list[InputResolution], expected: tuple[int, int], orientation: int
) -> None:
    data = images.jpeg(images.gradient(1200, 900), exif=images.exif(orientation))
    image = decode(data, resolutions=resolutions)
    is_rotated = orientation == 6
    assert image.pixels.shape[:2] == (expected[::-1] if is_rotated else expected)
    assert (image.width, image.height) == ((900, 1200) if is_rotated else (1200, 900))
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize(("orientation", "reduction"), [(1, 2), (6, 1)])
def test_the_scale_is_chosen_by_the_displayed_size_not_the_stored_one(orientation: int, reduction: int) -> None:
    data = images.jpeg(images.gradient(1200, 600), exif=images.exif(orientation))
    wide = InputResolution(mode="stretch", longer_px=300, shorter_px=100)
    image = decode(data, resolutions=[wide])
    assert image.pixels.shape[1] * reduction == image.width


@pytest.mark.parametrize("size", [(1201, 903), (1999, 17), (17, 1999), (5, 3000), (641, 480)])
def test_a_scaled_image_of_any_shape_keeps_the_margin(size: tuple[int, int]) -> None:
    data = images.jpeg(images.gradient(*size))
    for shorter in (1, 2, 5, 20, 60, 200):
        for resolution in (
            InputResolution(mode="cover", shorter_px=shorter),
            InputResolution(mode="fit", shorter_px=900, longer_px=shorter),
        ):
            image = decode(data, resolutions=[resolution])
            height, width, _ = image.pixels.shape
            scale = min(width / image.width, height / image.height)
            assert (image.width, image.height) == size
            assert scale == 1 or scale >= MARGIN[resolution.mode] * resolution.scale(*size)


def test_a_scaled_image_resembles_the_full_one() -> None:
    data = images.jpeg(images.gradient(1600, 1200))
    resolution = InputResolution(mode="cover", shorter_px=150)
    full, scaled = (
        decode(data, rules=DecodeRules(scaled=is_on), resolutions=[resolution]).pixels for is_on in (False, True)
    )
    assert (full.shape, scaled.shape) == ((1200, 1600, 3), (300, 400, 3))
    resized = [
        np.asarray(Image.fromarray(pixels).resize((200, 150), Image.Resampling.BILINEAR), np.float32)
        for pixels in (full, scaled)
    ]
    assert np.abs(resized[0] - resized[1]).mean() < 1.5


def test_only_a_jpeg_is_scaled() -> None:
    data = images.encoded(images.gradient(), "PNG")
    assert decode(data, resolutions=[TINY]).pixels.shape == (480, 640, 3)


def test_threads_decode_the_same_images_without_warnings() -> None:
    files = [*images.in_many_formats().values(), *images.odd_modes().values()] * 6
    expected = [decode(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda data: decode(data).pixels, files))
    assert all(np.array_equal(*pair) for pair in zip(decoded, expected, strict=True))


def test_a_warning_of_pillow_is_not_a_failure_even_where_warnings_are_errors() -> None:
    data = images.odd_modes()["palette with alpha"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).width == 96
        many_tags = images.oriented_tiff(1).replace(b"\x12\x01\x03\0\x01\0\0\0", b"\x13\x01\x02\0\xff\xff\xff\0")
        assert decode(many_tags).width == 64


def test_the_decoder_imports_neither_torch_nor_ray_nor_the_heif_plugin() -> None:
    heavy = {"torch", "ray", "pillow_heif", "pydantic"}
    code = f"import sys, batchtag.decoding.decoder; print(sorted({heavy!r} & set(sys.modules)))"
    repository = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_default_rules_allow_the_formats_that_are_on_by_default() -> None:
    assert RULES.formats == DEFAULT_FORMATS
    assert set(IMAGE_FORMATS) - DEFAULT_FORMATS == {"dds", "icns"}


def hostile_files(shared_data: Path) -> Iterator[tuple[dict[str, str], bytes]]:
    folder = shared_data / "hostile"
    with (folder / "MANIFEST.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            yield row, (folder / row["file"]).read_bytes()


def has_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    return bool(pillow_heif)


def difference(row: dict[str, str], data: bytes, resolutions: list[InputResolution]) -> str:
    """How the result for a hostile file differs from its row in the manifest, "" if it does not."""
    is_readable = row["decodable"] == "yes" or (row["with_pillow_heif"].startswith("ok") and has_heif())
    image = decode_or_fail(data, rules=RULES, resolutions=resolutions)
    if isinstance(image, Failure):
        return f"{row['file']}: {image.message}" if is_readable else ""
    if not is_readable:
        return f"{row['file']}: decoded, which the manifest says is impossible"
    if row["decodable"] != "yes":
        return ""
    mean = np.asarray(Image.fromarray(image.pixels).resize((1, 1), Image.Resampling.BOX))[0, 0].tolist()
    expected = [int(value) for value in row["rgb_mean"].split()]
    if (image.width, image.height) != (int(row["width"]), int(row["height"])):
        return f"{row['file']}: displayed as {image.width} x {image.height}, not {row['width']} x {row['height']}"
    off = max(abs(a - b) for a, b in zip(mean, expected, strict=True))
    return f"{row['file']}: mean {mean}, not {expected}" if off > 2 else ""


def test_every_hostile_file_has_the_result_in_its_manifest(shared_data: Path) -> None:
    differences = [difference(row, data, []) for row, data in hostile_files(shared_data)]
    assert len(differences) == 354
    assert [text for text in differences if text] == []


def test_hostile_jpegs_keep_size_and_colour_when_decoded_at_a_scale(shared_data: Path) -> None:
    # libjpeg fills in what damaged entropy-coded data lack, and fills it in differently at each scale.
    unpredictable = "bad_huffman.jpg"
    rows = [(row, data) for row, data in hostile_files(shared_data) if row["format"] in ("JPEG", "MPO")]
    differences = [difference(row, data, [TINY]) for row, data in rows if not row["file"].endswith(unpredictable)]
    assert len(differences) > 40
    assert [text for text in differences if text] == []

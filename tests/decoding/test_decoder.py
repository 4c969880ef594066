"""Bytes become upright RGB or a failure with a stable code, whatever the bytes are."""

from __future__ import annotations

import csv
import io
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchtag.decoding.decoder import FORMATS, MARGIN, DecodeRules, decode, sniff
from batchtag.errors import Code, DecodeError
from batchtag.types import DecodedImage, InputResolution
from tests.support import images

RULES = DecodeRules()
TINY = InputResolution(mode="cover", shorter_px=20)


def failure(data: bytes, rules: DecodeRules = RULES) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(data, rules=rules)
    return caught.value


def quarters(image: DecodedImage) -> list[tuple[int, ...]]:
    """The colours of the four quarters, top left first, row by row, each channel 0 or 255."""
    height, width, _ = image.pixels.shape
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(255 if value > 127 else 0 for value in image.pixels[place].tolist()) for place in places]


UPRIGHT = [images.RED, images.GREEN, images.BLUE, images.WHITE]
# Where the stored top left, top right, bottom left and bottom right are displayed, from the EXIF standard.
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
TURNED = {
    "jpeg": images.oriented_jpeg,
    "xmp": images.xmp_oriented_jpeg,
    "tiff": images.oriented_tiff,
    "png with its exif last": images.png_with_exif_last,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_every_exif_orientation_is_shown_as_a_person_would_see_it(kind: str, orientation: int) -> None:
    image = decode(TURNED[kind](orientation), rules=RULES)
    assert quarters(image) == DISPLAYED[orientation]
    assert (image.width, image.height) == ((48, 64) if orientation >= 5 else (64, 48))
    assert image.orientation == orientation
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535, "6", "up"])
def test_a_nonsense_orientation_counts_as_1(orientation: int | str) -> None:
    image = decode(images.oriented_jpeg(orientation), rules=RULES)
    assert quarters(image) == UPRIGHT
    assert image.orientation == 1


@pytest.mark.parametrize("block", [b"Exif\0\0garbage, not a TIFF", b"Exif\0\0II*\0", images.exif(6)[:-9]])
def test_a_broken_exif_block_does_not_spoil_the_image(block: bytes) -> None:
    assert quarters(decode(images.jpeg(exif=block), rules=RULES)) == UPRIGHT


@pytest.mark.parametrize(("name", "data"), images.in_many_formats().items())
def test_every_format_shows_the_same_image(name: str, data: bytes) -> None:
    image = decode(data, rules=RULES)
    assert quarters(image) == UPRIGHT
    assert image.format == name


@pytest.mark.parametrize(("name", "data"), images.in_rare_formats().items())
def test_a_rare_format_is_read_too(name: str, data: bytes) -> None:
    image = decode(data, rules=RULES)
    assert (image.format, image.width, image.height) == (name, 16, 16)
    assert (image.pixels[:8].max(), image.pixels[8:].min()) == (0, 255)


def test_a_heic_shows_the_same_image() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra 'heif' is not installed")
    buffer = io.BytesIO()
    try:
        pillow_heif.from_pillow(images.corners()).save(buffer, quality=90)
    except (RuntimeError, KeyError) as error:
        pytest.skip(f"this build of pillow-heif cannot write HEIC: {error}")
    image = decode(buffer.getvalue(), rules=RULES)
    assert (quarters(image), image.format) == (UPRIGHT, "heif")


def test_a_heic_without_its_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = failure(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert error.code is Code.UNSUPPORTED
    assert "pip install 'batchtag[heif]'" in error.message


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_shows_its_first_frame(format: str) -> None:
    assert quarters(decode(images.animated(format), rules=RULES)) == UPRIGHT


@pytest.mark.parametrize(("name", "data"), images.odd_modes().items())
def test_clip_is_exactly_what_pillow_converts(name: str, data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, rules=RULES).pixels, expected, strict=True)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_scale_maps_the_full_16_bit_range(format: str) -> None:
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
def test_scale_uses_the_usual_range_and_else_the_images_own(samples: np.ndarray, expected: list[int]) -> None:
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
def test_what_is_no_image_gets_a_code_and_words(data: bytes, code: Code, word: str) -> None:
    error = failure(data)
    assert error.code is code
    assert word in error.message


def test_a_format_that_the_job_does_not_allow_is_unsupported_whatever_it_holds() -> None:
    for name, data in images.in_many_formats().items():
        assert failure(data, DecodeRules(formats=RULES.formats - {name})).code is Code.UNSUPPORTED, name


def test_words_tell_the_formats_apart() -> None:
    assert sniff(images.jpeg()) == "a JPEG image"
    assert sniff(images.in_many_formats()["tga"]) == "a TGA image"
    assert sniff(b"\x01\x02\x03") == "nothing known here (first bytes 01 02 03)"


def test_random_bytes_are_hardly_ever_taken_for_a_image() -> None:
    dice = random.Random(7)
    taken = sum(not sniff(dice.randbytes(64)).startswith("nothing known") for _ in range(20_000))
    assert taken < 20


CUT = ["jpeg", "png", "gif", "webp", "avif", "tiff", "bmp", "jpeg2000", "qoi", "tga", "ppm", "sgi", "pcx", "mpo", "ico"]


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_anywhere_is_decoded_or_a_failure(name: str) -> None:
    data = images.in_many_formats()[name]
    for length in range(1, len(data), max(1, len(data) // 60)):
        check_outcome(data[:length])


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "avif", "bmp"])
def test_a_common_file_that_lacks_its_end_is_truncated(name: str) -> None:
    data = images.encoded(images.gradient(96, 64), name.upper())
    for length in range(20, len(data) * 9 // 10, max(1, len(data) // 40)):
        error = failure(data[:length])
        assert error.code is Code.TRUNCATED, (length, error.message)


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_truncated() -> None:
    data = images.jpeg(images.gradient(), progressive=True)
    assert failure(data[: len(data) // 2]).code is Code.TRUNCATED


def check_outcome(data: bytes) -> None:
    """Anything but an image or a DecodeError with a code escapes, or fails the test."""
    rules = DecodeRules(max_pixels=4_000_000)
    try:
        decode(data, rules=rules, input_resolutions=[TINY])
        return
    except DecodeError as caught:
        error = caught
    assert isinstance(error.code, Code)
    assert error.message
    assert " at 0x" not in error.message


@pytest.mark.parametrize("name", CUT)
def test_flipped_bytes_give_a_image_or_a_failure_and_nothing_else(name: str) -> None:
    dice, data = random.Random(name), images.in_many_formats()[name]
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(min(len(data), dice.choice((64, 400, len(data)))))] = dice.randrange(256)
        check_outcome(bytes(damaged))


@pytest.mark.parametrize(("name", "data"), images.bombs(3000, 2000).items())
def test_a_header_that_claims_more_than_max_pixels_is_too_large(name: str, data: bytes) -> None:
    assert failure(data, DecodeRules(max_pixels=3000 * 2000 - 1)).code is Code.TOO_LARGE


IN_LITTLE_MEMORY = """
import resource, sys
from batchtag.decode import DecodeRules, decode
from batchtag.errors import DecodeError
from tests import images

bombs = images.bombs(16000, 12000)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 100 * 2**20,) * 2)
for name, data in bombs.items():
    try:
        decode(data, rules=DecodeRules())
    except DecodeError as error:
        print(name, error.code, sep=": ")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to know the memory in use")
def test_a_bomb_of_any_format_is_refused_before_memory_is_taken() -> None:
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", IN_LITTLE_MEMORY]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{name}: too_large" for name in images.bombs(16, 12)]


def test_more_bytes_than_allowed_are_too_large() -> None:
    data = images.jpeg()
    assert failure(data, DecodeRules(max_bytes=len(data) - 1)).code is Code.TOO_LARGE
    assert decode(data, rules=DecodeRules(max_bytes=len(data))).width == 64


def test_rules_may_allow_more_pixels_than_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for data in images.in_many_formats().values():
        assert decode(data, rules=RULES).width in (32, 64)
    assert Image.MAX_IMAGE_PIXELS is not None
    assert RULES.max_pixels <= 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("needs", "expected"),
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
def test_a_jpeg_is_decoded_no_larger_than_the_models_need(
    input_resolutions: list[InputResolution], expected: tuple[int, int], orientation: int
) -> None:
    data = images.jpeg(images.gradient(1200, 900), exif=images.exif(orientation))
    image = decode(data, rules=RULES, input_resolutions=input_resolutions)
    turned = orientation == 6
    assert image.pixels.shape[:2] == (expected[::-1] if turned else expected)
    assert (image.width, image.height) == ((900, 1200) if turned else (1200, 900))
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize(("orientation", "reduction"), [(1, 2), (6, 1)])
def test_a_need_is_judged_by_the_displayed_image_and_not_the_stored_one(orientation: int, reduction: int) -> None:
    data = images.jpeg(images.gradient(1200, 600), exif=images.exif(orientation))
    wide = InputResolution(mode="stretch", longer_px=300, shorter_px=100)
    image = decode(data, rules=RULES, input_resolutions=[wide])
    assert image.pixels.shape[1] * reduction == image.width


@pytest.mark.parametrize("size", [(1201, 903), (1999, 17), (17, 1999), (5, 3000), (641, 480)])
def test_a_scaled_image_keeps_the_margin_whatever_its_shape(size: tuple[int, int]) -> None:
    data = images.jpeg(images.gradient(*size))
    for shorter in (1, 2, 5, 20, 60, 200):
        for input_resolution in (
            InputResolution(mode="cover", shorter_px=shorter),
            InputResolution(mode="fit", shorter_px=900, longer_px=shorter),
        ):
            image = decode(data, rules=RULES, input_resolutions=[input_resolution])
            height, width, _ = image.pixels.shape
            left = min(width / image.width, height / image.height)
            assert (image.width, image.height) == size
            assert left == 1 or left >= MARGIN[input_resolution.mode] * input_resolution.scale(*size)


def test_a_scaled_image_looks_like_the_full_one() -> None:
    data = images.jpeg(images.gradient(1600, 1200))
    input_resolution = InputResolution(mode="cover", shorter_px=150)
    full, scaled = (
        decode(data, rules=DecodeRules(scaled=on), input_resolutions=[input_resolution]).pixels for on in (False, True)
    )
    assert (full.shape, scaled.shape) == ((1200, 1600, 3), (300, 400, 3))
    seen = [
        np.asarray(Image.fromarray(pixels).resize((200, 150), Image.Resampling.BILINEAR), np.float32)
        for pixels in (full, scaled)
    ]
    assert np.abs(seen[0] - seen[1]).mean() < 1.5


def test_only_a_jpeg_is_scaled() -> None:
    data = images.encoded(images.gradient(), "PNG")
    assert decode(data, rules=RULES, input_resolutions=[TINY]).pixels.shape == (480, 640, 3)


def test_threads_get_the_same_images_and_no_warnings() -> None:
    files = [*images.in_many_formats().values(), *images.odd_modes().values()] * 6
    expected = [decode(data, rules=RULES).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda data: decode(data, rules=RULES).pixels, files))
    assert all(np.array_equal(*pair) for pair in zip(seen, expected, strict=True))


def test_a_remark_of_pillow_is_no_failure_where_warnings_are_errors() -> None:
    data = images.odd_modes()["palette with alpha"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, rules=RULES).width == 96
        many_tags = images.oriented_tiff(1).replace(b"\x12\x01\x03\0\x01\0\0\0", b"\x13\x01\x02\0\xff\xff\xff\0")
        assert decode(many_tags, rules=RULES).width == 64


def test_decode_and_its_formats_come_without_torch_or_ray() -> None:
    code = "import sys, batchtag.decode; print(sorted({'torch', 'ray', 'pillow_heif', 'pydantic'} & set(sys.modules)))"
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert RULES.formats <= set(FORMATS)


def hostile(shared_data: Path) -> Iterator[tuple[dict[str, str], bytes]]:
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


def differences(row: dict[str, str], data: bytes, input_resolutions: list[InputResolution]) -> str:
    """In what a hostile file's outcome differs from its manifest, "" if it does not."""
    readable = row["decodable"] == "yes" or (row["with_pillow_heif"].startswith("ok") and has_heif())
    try:
        image = decode(data, rules=RULES, input_resolutions=input_resolutions)
    except DecodeError as error:
        return f"{row['file']}: {error.message}" if readable else ""
    if not readable:
        return f"{row['file']}: decoded, which the manifest says is impossible"
    if row["decodable"] != "yes":
        return ""
    mean = np.asarray(Image.fromarray(image.pixels).resize((1, 1), Image.Resampling.BOX))[0, 0].tolist()
    expected = [int(value) for value in row["rgb_mean"].split()]
    if (image.width, image.height) != (int(row["width"]), int(row["height"])):
        return f"{row['file']}: displayed as {image.width} x {image.height}, not {row['width']} x {row['height']}"
    off = max(abs(a - b) for a, b in zip(mean, expected, strict=True))
    return f"{row['file']}: mean {mean}, not {expected}" if off > 2 else ""


def test_every_hostile_file_has_the_outcome_of_its_manifest(shared_data: Path) -> None:
    found = [differences(row, data, []) for row, data in hostile(shared_data)]
    assert len(found) == 354
    assert [text for text in found if text] == []


def test_hostile_jpegs_keep_size_and_colour_when_they_are_scaled(shared_data: Path) -> None:
    # Where the entropy-coded data is damaged, libjpeg invents the rest, and invents differently at each scale.
    invented = "bad_huffman.jpg"
    rows = [(row, data) for row, data in hostile(shared_data) if row["format"] in ("JPEG", "MPO")]
    found = [differences(row, data, [TINY]) for row, data in rows if not row["file"].endswith(invented)]
    assert len(found) > 40
    assert [text for text in found if text] == []

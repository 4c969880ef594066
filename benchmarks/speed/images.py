"""The images, in a folder that is kept: real photographs, repeated as hard links under new names, and large versions.

Only RGB JPEGs without an EXIF rotation are used, because Ray's `read_images` and Daft's `decode_image` do not rotate
images, and a peer with other tags cannot be compared. The large versions are only resized: without the noise of a real
sensor they decode faster than photographs of that size, which favours contenders that decode in full.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from benchmarks.speed.workloads import Images

DATA = Path("../shared/data")
BUCKET = "photos"
MAX_IMAGES = 2000
"""Names of each kind."""
_NUM_GROCERIES, _NUM_LARGE = 65, 24
_LARGE_PIXELS = 12e6


def prepare_images(cache: Path, kinds: Iterable[Images], *, data: Path = DATA) -> Path:
    """Return the folder to serve, with `photos/<kind>/000000-<name>.jpg` for each kind. Existing kinds are kept.

    Raises SystemExit if `data` has no photographs.
    """
    originals = cache / "originals"
    for kind in kinds:
        folder = cache / "served" / BUCKET / kind
        if folder.is_dir():
            continue
        bases = _copy_photographs(originals / "ordinary", data)
        if kind == "12-megapixel":
            bases = _enlarge(originals / kind, bases[:_NUM_LARGE])
        unfinished = folder.with_name(f"{kind}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for number, base in zip(range(MAX_IMAGES), itertools.cycle(bases), strict=False):
            os.link(base, unfinished / f"{number:06d}-{base.name}")
        unfinished.rename(folder)
    return cache / "served"


def list_keys(served: Path, kind: Images, *, num_images: int) -> list[str]:
    """Return the first keys of a kind, in the order of a listing."""
    return [f"{kind}/{name}" for name in sorted(os.listdir(served / BUCKET / kind))[:num_images]]


def count_distinct(kind: Images, served: Path) -> int:
    """Return the number of different images of a kind."""
    return len({name.split("-", 1)[1] for name in os.listdir(served / BUCKET / kind)})


def _copy_photographs(folder: Path, data: Path) -> list[Path]:
    """Copy photographs, alternately of anything and of grocery stores as long as both last; return the copies."""
    if not folder.is_dir():
        photos = list(_usable_files(sorted((data / "photos").rglob("*.jpg"))))
        groceries = list(_usable_files(sorted((data / "classification_train" / "grocery").rglob("*.jpg"))))
        if not photos or not groceries:
            raise SystemExit(f"{data.absolute()} has no photographs; name the folder with --data")
        groceries = groceries[:: max(1, len(groceries) // _NUM_GROCERIES)][:_NUM_GROCERIES]
        unfinished = folder.with_name("ordinary.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        pairs = itertools.chain.from_iterable(itertools.zip_longest(photos, groceries))
        for number, path in enumerate(path for path in pairs if path):
            shutil.copyfile(path, unfinished / f"{number:03d}-{path.name}")
        unfinished.rename(folder)
    return sorted(folder.iterdir())


def _usable_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the RGB JPEGs without rotation."""
    for path in paths:
        with Image.open(path) as image:
            if image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1:
                yield path


def _enlarge(folder: Path, bases: Iterable[Path]) -> list[Path]:
    """Resize photographs to 12 megapixels; return the large versions."""
    if not folder.is_dir():
        unfinished = folder.with_name("12-megapixel.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for path in bases:
            with Image.open(path) as image:
                scale = (_LARGE_PIXELS / (image.width * image.height)) ** 0.5
                size = round(image.width * scale), round(image.height * scale)
                image.resize(size, Image.Resampling.BICUBIC).save(unfinished / path.name, quality=90)
        unfinished.rename(folder)
    return sorted(folder.iterdir())

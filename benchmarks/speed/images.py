"""The images, in a folder that is kept: real photographs, repeated under new names by hard links, and large versions.

Only RGB JPEGs without an EXIF rotation are taken, because Ray's `read_images` and Daft's `decode_image` do not turn
images, and a peer that gives other tags is no comparison. The large versions are resized and nothing else: without
the grain of a real sensor they decode faster than true photographs of that size, which favours whoever decodes in full.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from benchmarks.speed.works import Images

DATA = Path("../shared/data")
BUCKET = "photos"
MOST = 2000
_GROCERIES, _LARGE = 65, 24
_MEGAPIXELS = 12e6


def prepare(cache: Path, kinds: Iterable[Images], *, data: Path = DATA) -> Path:
    """The folder to serve, with `photos/<kind>/000000-<name>.jpg` for each kind. What is there already is kept.

    Raises SystemExit if the photographs are not there.
    """
    originals = cache / "originals"
    for kind in kinds:
        folder = cache / "served" / BUCKET / kind
        if folder.is_dir():
            continue
        bases = _ordinary(originals / "ordinary", data)
        if kind == "12-megapixel":
            bases = _large(originals / kind, bases[:_LARGE])
        started = folder.with_name(f"{kind}.started")
        shutil.rmtree(started, ignore_errors=True)
        started.mkdir(parents=True)
        for number, base in zip(range(MOST), itertools.cycle(bases), strict=False):
            os.link(base, started / f"{number:06d}-{base.name}")
        started.rename(folder)
    return cache / "served"


def names(served: Path, kind: Images, *, num_images: int) -> list[str]:
    """The first so many keys of a kind, in the order of a listing."""
    return [f"{kind}/{name}" for name in sorted(os.listdir(served / BUCKET / kind))[:num_images]]


def num_distinct(kind: Images, served: Path) -> int:
    """How many different images there are before they repeat."""
    return len({name.split("-", 1)[1] for name in os.listdir(served / BUCKET / kind)})


def _ordinary(folder: Path, data: Path) -> list[Path]:
    """Copies of photographs, every other one from a grocery store while there are enough of both."""
    if not folder.is_dir():
        photos = list(_usable(sorted((data / "photos").rglob("*.jpg"))))
        groceries = list(_usable(sorted((data / "classification_train" / "grocery").rglob("*.jpg"))))
        if not photos or not groceries:
            raise SystemExit(f"{data.absolute()} has no photographs to measure with; name the folder with --data")
        groceries = groceries[:: max(1, len(groceries) // _GROCERIES)][:_GROCERIES]
        started = folder.with_name("ordinary.started")
        shutil.rmtree(started, ignore_errors=True)
        started.mkdir(parents=True)
        pairs = itertools.chain.from_iterable(itertools.zip_longest(photos, groceries))
        for number, path in enumerate(path for path in pairs if path):
            shutil.copyfile(path, started / f"{number:03d}-{path.name}")
        started.rename(folder)
    return sorted(folder.iterdir())


def _usable(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        with Image.open(path) as image:
            if image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1:
                yield path


def _large(folder: Path, bases: Iterable[Path]) -> list[Path]:
    if not folder.is_dir():
        started = folder.with_name("12-megapixel.started")
        shutil.rmtree(started, ignore_errors=True)
        started.mkdir(parents=True)
        for path in bases:
            with Image.open(path) as image:
                scale = (_MEGAPIXELS / (image.width * image.height)) ** 0.5
                size = round(image.width * scale), round(image.height * scale)
                image.resize(size, Image.Resampling.BICUBIC).save(started / path.name, quality=90)
        started.rename(folder)
    return sorted(folder.iterdir())

"""Which names are images: by default the extensions of what `decode` reads, else what the job's globs say.

A glob is matched against the whole path below the prefix (or in the shard), case and all, because keys that differ in
case are different objects. `*` crosses folders, as in fnmatch and in `aws s3 --include`, so `*.jpg` means every JPEG
and `2026/*` all of 2026; shells and git would need `**` there. `**/` also matches no folder at all. Names that begin
with a dot or an underscore are names like others. All globs become one compiled expression: 0.5 us a name.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Sequence

_EXTENSIONS = """
    jpg jpeg jpe jfif pjpeg pjp mpo png apng gif webp avif avifs heic heics heif heifs hif tif tiff bmp dib
    ppm pgm pbm pnm pfm ico jp2 j2k jpx jpf jpc j2c tga pcx sgi psd fits qoi
"""
IMAGE_EXTENSIONS = frozenset(_EXTENSIONS.split())
"""What the formats that `decode` reads by default are called, in lower case; any case counts."""

_IMAGE_NAME = re.compile(rf"\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})\Z", re.IGNORECASE)
_ANY_FOLDERS = re.compile(r"(?<![^/])(?:\*\*/)+")


def name_filter(*, include: Sequence[str], exclude: Sequence[str], by_extension: bool = True) -> Callable[[str], bool]:
    """Says of a path whether it is wanted: it matches one of `include`, and none of `exclude`.

    Without `include`, what has the extension of an image is; or, not `by_extension`, everything is.
    """
    included = _any_of(include) if include else _IMAGE_NAME.search if by_extension else _everything
    if not exclude:
        return lambda path: included(path) is not None
    excluded = _any_of(exclude)
    return lambda path: included(path) is not None and excluded(path) is None


def _any_of(globs: Sequence[str]) -> Callable[[str], object | None]:
    patterns = itertools.chain.from_iterable(_without_optional_folders(glob) for glob in globs)
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


def _without_optional_folders(glob: str) -> list[str]:
    """The glob with each `**/` kept and left out: `**/a/**/b` gives four, and together they mean it."""
    pieces = _ANY_FOLDERS.split(glob)
    choices = itertools.product(("**/", ""), repeat=len(pieces) - 1)
    return ["".join(itertools.chain(*zip(pieces, (*choice, ""), strict=True))) for choice in choices]


def _everything(path: str) -> object | None:
    return path

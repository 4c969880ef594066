"""Choose images by name: by their extension, or by the globs of the job.

A glob is matched against the whole path below the prefix (or in the shard), case-sensitively, because keys that
differ in case are different objects. `*` crosses folders, as in fnmatch and in `aws s3 --include`: `*.jpg` means
every JPEG, and `2026/*` all of 2026. Shells and git would need `**` for that. `**/` also matches no folder at all.
Names that begin with a dot or an underscore have no special meaning. All globs become one compiled expression, which
takes 0.5 us per name.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Sequence

from batchtag.decoding.formats import IMAGE_EXTENSIONS

_IMAGE_NAME = re.compile(rf"\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})\Z", re.IGNORECASE)
_ANY_FOLDERS = re.compile(r"(?<![^/])(?:\*\*/)+")


def name_filter(*, include: Sequence[str], exclude: Sequence[str], by_extension: bool = True) -> Callable[[str], bool]:
    """Build a function that states whether a path is wanted: it matches one of `include`, and none of `exclude`.

    Without `include`, a path with the extension of an image is included, or every path if `by_extension` is false.
    """
    included = _compile_globs(include) if include else _IMAGE_NAME.search if by_extension else _match_everything
    if not exclude:
        return lambda path: included(path) is not None
    excluded = _compile_globs(exclude)
    return lambda path: included(path) is not None and excluded(path) is None


def _compile_globs(globs: Sequence[str]) -> Callable[[str], object | None]:
    patterns = itertools.chain.from_iterable(_expand_optional_folders(glob) for glob in globs)
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


def _expand_optional_folders(glob: str) -> list[str]:
    """Return the glob with each `**/` kept and removed: `**/a/**/b` gives four globs, which together mean the same."""
    pieces = _ANY_FOLDERS.split(glob)
    choices = itertools.product(("**/", ""), repeat=len(pieces) - 1)
    return ["".join(itertools.chain(*zip(pieces, (*choice, ""), strict=True))) for choice in choices]


def _match_everything(path: str) -> object | None:
    return path

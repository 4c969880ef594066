"""Which image of an OUT is which labelled image, by name: people copy images, and label the copies.

Equal URIs first. Else the ends of URIs, from the last step on: `s3://bucket/2026/a.jpg` is `./val/a.jpg`. Where two
images of one side share a file name, so many steps are compared as tell them apart; nothing is ever guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from batchtag.errors import UsageError

_STEPS = 6
_MEMBER = re.compile(r"\.tar#")
"""What stands before the name of an image in a tar shard."""


def counterparts(labelled: Sequence[str], tagged: Collection[str], *, out: str) -> dict[str, str]:
    """The URI in `out` of each labelled image that is there, by its own URI. Raises UsageError if none is."""
    there = set(tagged)
    same = {uri: uri for uri in labelled if uri in there}
    if same:
        return same
    shared: list[str] = []
    for num_steps in range(1, _STEPS + 1):
        mine = {uri: _end(uri, num_steps) for uri in dict.fromkeys(labelled)}
        wanted = set(mine.values())
        theirs = [(end, uri) for uri in tagged if (end := _end(uri, num_steps)) in wanted]
        if not theirs:
            break
        shared = shared or _repeated([end for end, _ in theirs]) or _repeated(mine.values())
        if not _repeated([end for end, _ in theirs]) and not _repeated(mine.values()):
            by_end = dict(theirs)
            return {uri: by_end[end] for uri, end in mine.items() if end in by_end}
    raise UsageError(_not_there(labelled, tagged, shared, out=out))


def _end(uri: str, num_steps: int) -> str:
    return "/".join(_MEMBER.sub(".tar/", uri).rsplit("/", num_steps)[-num_steps:])


def _repeated(ends: Collection[str]) -> list[str]:
    return [end for end, count in Counter(ends).items() if count > 1]


def _not_there(labelled: Sequence[str], tagged: Collection[str], shared: Sequence[str], *, out: str) -> str:
    example = f"such as {labelled[0]}" if labelled else "there are none"
    held = f"it holds {next(iter(tagged))}" if tagged else "it holds no images"
    head = f"{out}: holds none of the {len(labelled):,} labelled images ({example}; {held})"
    if shared:
        return (
            f"{head}; names alone do not tell which is which, because several images are called {shared[0]!r}. "
            "Name the truth with the URIs that were tagged"
        )
    return f"{head}. Name the truth of these images, or the tables of those"

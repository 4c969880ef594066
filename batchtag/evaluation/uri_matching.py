"""Matching of labelled images to the images of an output by name, because people copy images and label the copies.

Equal URIs match first. If there are none, the ends of URIs are compared: `s3://bucket/2026/a.jpg` matches
`./val/a.jpg`. If two images of one side have the same file name, more parts of the path are compared until all differ.
Nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from batchtag.errors import UsageError

_MAX_PARTS = 6
"""Maximum number of parts of a path, from its end, that are compared."""
_TAR_MEMBER = re.compile(r"\.tar#")
"""The separator between a tar shard and the name of an image in it."""


def match_uris(labelled: Sequence[str], tagged: Collection[str], *, out: str) -> dict[str, str]:
    """Return the URI in `out` of each labelled image that matches, by the URI of its label.

    Raises UsageError if no image matches, or if names do not identify the images.
    """
    tagged_uris = set(tagged)
    equal = {uri: uri for uri in labelled if uri in tagged_uris}
    if equal:
        return equal
    repeated: list[str] = []
    for num_parts in range(1, _MAX_PARTS + 1):
        labelled_ends = {uri: _end_of_path(uri, num_parts) for uri in dict.fromkeys(labelled)}
        ends = set(labelled_ends.values())
        candidates = [(end, uri) for uri in tagged if (end := _end_of_path(uri, num_parts)) in ends]
        if not candidates:
            break
        repeated_now = _find_repeated([end for end, _ in candidates]) or _find_repeated(labelled_ends.values())
        if not repeated_now:
            uri_by_end = dict(candidates)
            return {uri: uri_by_end[end] for uri, end in labelled_ends.items() if end in uri_by_end}
        repeated = repeated or repeated_now
    raise UsageError(_describe_mismatch(labelled, tagged, repeated, out=out))


def _end_of_path(uri: str, num_parts: int) -> str:
    return "/".join(_TAR_MEMBER.sub(".tar/", uri).rsplit("/", num_parts)[-num_parts:])


def _find_repeated(ends: Collection[str]) -> list[str]:
    return [end for end, count in Counter(ends).items() if count > 1]


def _describe_mismatch(labelled: Sequence[str], tagged: Collection[str], repeated: Sequence[str], *, out: str) -> str:
    labelled_example = f"such as {labelled[0]}" if labelled else "there is none"
    tagged_example = f"such as {next(iter(tagged))}" if tagged else "it has no images"
    if repeated:
        return (
            f"{out}: the labelled images ({labelled_example}) cannot be matched to the tagged ones ({tagged_example}), "
            f"because several images are called {repeated[0]!r}. Name the tagged URIs in the ground truth"
        )
    return (
        f"{out}: none of the {len(labelled):,} labelled images ({labelled_example}) is among the tagged ones "
        f"({tagged_example}). Choose the ground truth of these images, or the output of those"
    )

"""The unit of work and of commit: a bundle of positions, the id of its part, and what a commit says of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The unit of work and of commit: positions `first` to `first + num_images - 1` of the index.

    They are one row group of one index part, so a worker reads just these rows.
    """

    first: int
    num_images: int
    index_part: str
    row_group: int

    @property
    def id(self) -> str:
        """The name of its part: derived from the positions in it, so writing twice equals writing once."""
        return part_id(self.first, self.num_images)


def part_id(first: int, num_images: int) -> str:
    """First and last position, zero-padded so that names sort as positions do (12 digits: a million million images)."""
    return f"{first:012d}-{first + num_images - 1:012d}"


def positions_of_part(part: str) -> range:
    """The inverse of `part_id`. Raises ValueError for a name that is not one."""
    first, last = part.split("-")
    if len(first) != 12 or len(last) != 12 or int(last) < int(first):
        raise ValueError(f"{part!r} is not a part id (first-last, 12 digits each)")
    return range(int(first), int(last) + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What a committed part holds: the footer of its images file, and the one row a worker returns to the driver."""

    part: str
    first: int
    num_images: int
    num_tagged: int
    num_failed: int
    num_tags: int
    tags_sha256: str
    errors_sha256: str
    failed_by_code: dict[str, int] = field(default_factory=dict)

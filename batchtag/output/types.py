"""The unit of work and of commit: a bundle, the id of its part, and what the commit of that part records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The unit of work and of commit: positions `first` to `first + num_images - 1` of the index.

    A bundle is one row group of one index part, so that a worker reads only these rows.
    """

    first: int
    num_images: int
    index_part: str
    row_group: int

    @property
    def id(self) -> str:
        """The id of the bundle's part, which derives from the positions: writing it twice equals writing it once."""
        return part_id(self.first, self.num_images)


def part_id(first: int, num_images: int) -> str:
    """Return first and last position, zero-padded so that names sort as positions do (12 digits: 10^12 images)."""
    return f"{first:012d}-{first + num_images - 1:012d}"


def positions_of_part(part: str) -> range:
    """Return the positions in a part; the inverse of `part_id`. Raises ValueError for a malformed id."""
    first, last = part.split("-")
    if len(first) != 12 or len(last) != 12 or int(last) < int(first):
        raise ValueError(f"{part!r} is not a part id (first-last, 12 digits each)")
    return range(int(first), int(last) + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommittedFile:
    """A file that belongs to a commit: the hex digest of its bytes, and its number of rows (-1: not recorded)."""

    sha256: str
    rows: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The content of a committed part: the footer of its images file, and what a worker returns to the driver.

    `files` names every other file of the part by table, so that a further table (embeddings, masks) is one more entry.
    """

    part: str
    first: int
    num_images: int
    num_tagged: int
    num_failed: int
    num_tags: int
    files: dict[str, CommittedFile]
    failed_by_code: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text for the footer."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Commit:
        """Return the commit in a footer. Raises ValueError or TypeError if the text does not describe one."""
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {type(content).__name__}")
        files = content.pop("files", None)
        if files is None:
            files = _files_of_version_0_1(content)
        return cls(files={table: CommittedFile(**facts) for table, facts in files.items()}, **content)


def _files_of_version_0_1(content: dict[str, Any]) -> Mapping[str, Any]:
    """Return `files` for a footer of version 0.1, which has one key for each of the two digests; removes these keys."""
    if not {"tags_sha256", "errors_sha256"} <= set(content):
        raise ValueError("it has neither `files` nor the digests of tags and errors")
    rows = {"tags": content.get("num_tags", -1), "errors": content.get("num_failed", -1)}
    return {table: {"sha256": content.pop(f"{table}_sha256"), "rows": rows[table]} for table in ("tags", "errors")}

from __future__ import annotations

import pytest

from batchtag.output.layout import Layout, part_of_uri
from batchtag.output.types import part_id, positions_of_part


def test_a_part_id_has_its_positions_and_sorts_as_they_do() -> None:
    ids = [part_id(first, 64) for first in (0, 64, 999_936, 99_999_999_936)]
    assert ids == sorted(ids)
    assert [positions_of_part(part).start for part in ids] == [0, 64, 999_936, 99_999_999_936]
    assert len(positions_of_part(ids[2])) == 64


@pytest.mark.parametrize(
    "name", ["", "0-1", "000000000000", "000000000005-000000000004", "00000000000a-00000000000b", "a-b-c"]
)
def test_a_malformed_part_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"part|unpack|literal"):
        positions_of_part(name)


def test_only_the_uri_of_a_part_has_a_part_id() -> None:
    layout = Layout("s3://b/tags")
    part = part_id(128, 64)
    assert part_of_uri(layout.part("images", part)) == part
    assert layout.part("images", part) == f"s3://b/tags/images/part-{part}.parquet"
    for name in (
        f"{part}.parquet",
        f"part-{part}.parquet.tmp",
        "part-1-2.parquet",
        "notes.txt",
        f".part-{part}.parquet",
    ):
        assert part_of_uri(f"s3://b/tags/images/{name}") == ""

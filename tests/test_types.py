from __future__ import annotations

import numpy as np
import pytest

from batchtag.output.layout import Layout, part_of_uri
from batchtag.output.types import part_id, positions_of_part
from batchtag.types import DecodedImage, InputResolution, Prediction


def test_a_part_id_says_its_positions_and_sorts_as_they_do() -> None:
    ids = [part_id(first, 64) for first in (0, 64, 999_936, 99_999_999_936)]
    assert ids == sorted(ids)
    assert [positions_of_part(part).start for part in ids] == [0, 64, 999_936, 99_999_999_936]
    assert len(positions_of_part(ids[2])) == 64


@pytest.mark.parametrize(
    "name", ["", "0-1", "000000000000", "000000000005-000000000004", "00000000000a-00000000000b", "a-b-c"]
)
def test_a_name_that_is_no_part_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"part|unpack|literal"):
        positions_of_part(name)


def test_the_part_in_a_uri_is_found_and_nothing_else() -> None:
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


def test_pixels_of_another_shape_are_refused_with_expected_and_actual() -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8, got \(4, 4\) uint8"):
        DecodedImage(pixels=np.zeros((4, 4), np.uint8), width=4, height=4, format="png", orientation=1)


def test_a_prediction_checks_that_its_columns_belong_together() -> None:
    with pytest.raises(ValueError, match=r"label_ids must have shape \(2,\), got \(1,\)"):
        Prediction(scores=np.ones(2, np.float32), label_ids=np.zeros(1, np.int32))
    with pytest.raises(ValueError, match=r"boxes_xyxy must have shape \(1, 4\) or \(0, 4\), got \(2, 4\)"):
        Prediction(
            scores=np.ones(1, np.float32), label_ids=np.zeros(1, np.int32), boxes_xyxy=np.zeros((2, 4), np.float32)
        )


def test_a_need_says_by_how_much_a_image_shrinks() -> None:
    assert InputResolution(mode="fit", shorter_px=800, longer_px=1333).scale(4000, 1000) == pytest.approx(1333 / 4000)
    assert InputResolution(mode="fit", shorter_px=800, longer_px=1333).scale(1600, 1200) == pytest.approx(800 / 1200)
    assert InputResolution(mode="cover", shorter_px=256).scale(1024, 512) == 0.5
    assert InputResolution(mode="stretch", shorter_px=300, longer_px=300).scale(600, 1200) == 0.5
    assert InputResolution(mode="full").scale(9000, 9000) == 1.0

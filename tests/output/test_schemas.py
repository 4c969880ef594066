from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchtag.errors import Code
from batchtag.output.schemas import TABLES, errors_table, images_table, parquet_bytes, tags_table
from batchtag.types import Failure, ImagePrediction, ImageResult, Stage
from tests.support.samples import NOON, boxes, classes, failed, info, ref, tagged

TRUNCATED = Failure(stage=Stage.DECODE, code=Code.TRUNCATED, message="ends early", attempts=1)
DETECTOR = info("things", "object", labels=("", "bottle"))


def test_the_schemas_equal_the_checked_in_text() -> None:
    text = "".join(
        f"{table}.{field.name}: {field.type}{'' if field.nullable else ' not null'}\n"
        for table, schema in TABLES.items()
        for field in schema
    )
    assert text == (Path(__file__).parent / "schemas.txt").read_text()


def test_boxes_are_scaled_to_the_displayed_image_and_clipped_to_it() -> None:
    prediction = ImagePrediction(
        model_info=DETECTOR, prediction=boxes([-3, 2, 30, 20], [49, 39, 51, 41]), scale_xy=(2.0, 4.0)
    )
    rows = tags_table([tagged(0, prediction, width=100, height=80)], run_id="r-1").to_pylist()
    assert [(row["x_min"], row["y_min"], row["x_max"], row["y_max"]) for row in rows] == [
        (0.0, 8.0, 60.0, 80.0),
        (98.0, 80.0, 100.0, 80.0),
    ]


@pytest.mark.parametrize(("width", "height"), [(1023, 767), (99_999, 3), (16_777_217, 1)])
def test_rounding_moves_no_box_out_of_the_image(width: int, height: int) -> None:
    """The right edge of an image decoded at 1/8 is not at a whole displayed pixel."""
    small = (max(1, width // 8), max(1, height // 8))
    scale = (width / small[0], height / small[1])
    prediction = ImagePrediction(model_info=DETECTOR, prediction=boxes([0, 0, *small]), scale_xy=scale)
    row = tags_table([tagged(0, prediction, width=width, height=height)], run_id="r-1").to_pylist()[0]
    assert 0 <= row["x_min"] <= row["x_max"] <= width
    assert 0 <= row["y_min"] <= row["y_max"] <= height


def test_a_class_has_no_box_and_a_crop_names_its_parent() -> None:
    whole = ImagePrediction(model_info=info(), prediction=classes(0.75, 0.5))
    crop = ImagePrediction(
        model_info=info("product", crops_of="things"), prediction=classes(0.5), parent="things@0123456789ab#1"
    )
    rows = tags_table([tagged(3, whole, crop)], run_id="r-1").to_pylist()
    assert [(row["model"], row["rank"], row["score"], row["parent"]) for row in rows] == [
        ("scene@0123456789ab", 1, 0.75, None),
        ("scene@0123456789ab", 2, 0.5, None),
        ("product@0123456789ab", 1, 0.5, "things@0123456789ab#1"),
    ]
    assert {(row["uri"], row["tag"], row["kind"], row["run_id"]) for row in rows} == {
        ("s3://b/3.jpg", "cat", "class", "r-1")
    }
    assert {row[corner] for row in rows for corner in ("x_min", "y_min", "x_max", "y_max")} == {None}


def test_unknown_values_are_null_and_never_empty_strings() -> None:
    unread = ref(0, etag="", size_bytes=-1)
    unknown = ImageResult(ref=unread, etag="", size_bytes=-1, last_modified=None, failure=TRUNCATED)
    row = images_table([unknown], run_id="r-1", tagged_at=NOON).to_pylist()[0]
    nulls = {name for name, value in row.items() if value is None}
    assert nulls == {
        *("etag", "size_bytes", "last_modified", "content_hash"),
        *("width", "height", "format", "orientation", "dup_of"),
    }
    assert (row["status"], row["num_tags"], row["tagged_at"]) == ("failed", 0, NOON)


def test_an_object_of_zero_bytes_has_a_size() -> None:
    result = ImageResult(ref=ref(0, size_bytes=0), etag="e", size_bytes=0, last_modified=None)
    assert images_table([result], run_id="r", tagged_at=NOON)["size_bytes"].to_pylist() == [0]


def test_a_failed_image_has_no_tags_although_one_model_predicted_something() -> None:
    failure = Failure(stage=Stage.PREDICT, code=Code.MODEL_ERROR, message="no")
    half_done = replace(tagged(0, ImagePrediction(model_info=info(), prediction=classes(0.9))), failure=failure)
    assert half_done.num_tags == 0
    assert len(tags_table([half_done], run_id="r-1")) == 0
    assert errors_table([half_done], run_id="r-1")["code"].to_pylist() == ["model_error"]


def test_an_error_row_has_every_field_of_the_failure() -> None:
    failure = Failure(stage=Stage.FETCH, code=Code.THROTTLED, message="slow down", attempts=6)
    assert errors_table([tagged(0), failed(1, failure)], run_id="r-1").to_pylist() == [
        {
            "uri": "s3://b/1.jpg",
            "stage": "fetch",
            "code": "throttled",
            "message": "slow down",
            "retryable": True,
            "attempts": 6,
            "run_id": "r-1",
        }
    ]


def test_empty_tables_have_their_schema_also_in_the_file() -> None:
    without_boxes = tagged(0, ImagePrediction(model_info=DETECTOR, prediction=boxes()))
    for table, name in (
        (images_table([], run_id="r", tagged_at=NOON), "images"),
        (tags_table([], run_id="r"), "tags"),
        (tags_table([without_boxes], run_id="r"), "tags"),
        (errors_table([tagged(0)], run_id="r"), "errors"),
    ):
        assert len(table) == 0
        assert table.schema.equals(TABLES[name])
        assert pq.read_schema(io.BytesIO(parquet_bytes(table))).equals(TABLES[name])


def test_metadata_is_written_into_the_footer_and_the_rows_are_unchanged() -> None:
    data = parquet_bytes(images_table([tagged(0)], run_id="r", tagged_at=NOON), metadata={"batchtag.commit": "{}"})
    read = pq.read_table(io.BytesIO(data))
    assert read.schema.metadata[b"batchtag.commit"] == b"{}"
    assert read["uri"].to_pylist() == ["s3://b/0.jpg"]


def test_a_large_bundle_keeps_its_order_and_its_counts() -> None:
    """The predictions of all images become columns together; each row must still belong to its image."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, 3000)
    results = [
        tagged(i, ImagePrediction(model_info=DETECTOR, prediction=boxes(*[[i % 50, 0, i % 50 + 1, 1]] * n)))
        for i, n in enumerate(counts)
    ]
    table = tags_table(results, run_id="r-1")
    expected = [i for i, n in enumerate(counts) for _ in range(n)]
    assert table["uri"].to_pylist() == [f"s3://b/{i}.jpg" for i in expected]
    assert table["x_min"].to_pylist() == [i % 50 for i in expected]
    assert table["rank"].to_pylist() == [rank for n in counts for rank in range(1, n + 1)]
    assert sum(result.num_tags for result in results) == len(table)
    assert parquet_bytes(table) == parquet_bytes(tags_table(results, run_id="r-1"))

"""What a job may say of labelled data, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batchtag.config.dataset import DataSpec, FolderData, Holdout

TRAIN = {"kind": "folders", "uri": "photos"}


def test_a_fifth_of_train_is_held_out_where_nothing_else_is_said() -> None:
    spec = DataSpec.model_validate({"train": TRAIN})
    assert (spec.train, spec.val) == (FolderData(uri="photos"), Holdout(share=0.2, seed=0))


def test_val_may_be_a_share_or_data_of_its_own() -> None:
    assert DataSpec.model_validate({"train": TRAIN, "val": {"kind": "holdout", "share": 0.5}}).val == Holdout(share=0.5)
    assert DataSpec.model_validate({"train": TRAIN, "val": TRAIN}).val == FolderData(uri="photos")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"on_problem": {"zero_aera": "drop"}}, "Extra inputs are not permitted"),
        ({"on_problem": {"zero_area": "keep"}}, "Input should be 'drop' or 'fail'"),
        ({"val": {"kind": "holdout", "share": 1.0}}, "less than 1"),
        ({"labels": ["a", "b", "a"]}, "it names 'a' more than once; name each class once"),
        ({"train": {"kind": "table", "uri": "t.csv", "box_columns": ["x"]}}, "it must name four columns"),
    ],
)
def test_mistakes_are_refused(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        DataSpec.model_validate({"train": TRAIN, **content})

"""The `data` section of a training job: defaults, mistakes and old names."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batchtag.config.dataset import DataSpec, FolderData, Holdout, OnProblem

TRAIN = {"kind": "folders", "uri": "photos"}


def test_a_fifth_of_train_is_held_out_by_default() -> None:
    spec = DataSpec.model_validate({"train": TRAIN})
    assert (spec.train, spec.val) == (FolderData(uri="photos"), Holdout(share=0.2, seed=0))


def test_val_may_be_a_share_of_train_or_other_data() -> None:
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


def test_the_old_names_missing_picture_and_wrong_picture_still_work() -> None:
    content = {"train": TRAIN, "on_problem": {"missing_picture": "drop", "wrong_picture": "keep"}}
    assert DataSpec.model_validate(content).on_problem == OnProblem(missing_image="drop", wrong_image="keep")

"""How mistakes in a job file are reported, whatever sections, lists and unions the spec consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pytest
from pydantic import Field, field_validator, model_validator

from batchtag.config.base import Spec
from batchtag.config.job import make_spec
from batchtag.config.loader import parse_spec, read_job_file
from batchtag.config.mistakes import Mistakes
from batchtag.errors import JobFileError


class Coco(Spec):
    kind: Literal["coco"] = "coco"
    uri: str
    storage_options: dict[str, Any] = Field(default_factory=dict)


class Folders(Spec):
    kind: Literal["folders"] = "folders"
    uri: str
    depth: int | None = Field(default=None, ge=1)


Images = Annotated[Coco | Folders, Field(discriminator="kind")]


class Holdout(Spec):
    share: float = Field(gt=0, lt=1)


class Data(Spec):
    train: Images
    val: Images | Holdout = Holdout(share=0.2)
    more: list[Images] = Field(default_factory=list)


class Warmup(Spec):
    epochs: int = 1


class Train(Spec):
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    warmup: Warmup | None = None
    weights: dict[str, float] = Field(default_factory=dict)

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        low = [f"{name} is {weight:g}; it must be above 0" for name, weight in weights.items() if weight <= 0]
        if low:
            raise Mistakes(low)
        return weights


class Span(Spec):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must not be above high")
        return self


class TrainJob(Spec):
    data: Data
    train: Train
    span: Span = Span()


DATA: dict[str, Any] = {"train": {"kind": "coco", "uri": "a.json"}}


def find_mistakes(content: dict[str, Any], model: type[Spec] = TrainJob) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        parse_spec(model, content, origin="job.yaml")
    lines = caught.value.message.split("\n")
    assert all(line.startswith("job.yaml: ") for line in lines)
    return [line.removeprefix("job.yaml: ") for line in lines]


@pytest.mark.parametrize(
    ("data", "train", "expected"),
    [
        (DATA, {"epoch": 3}, ["train.epoch is not a key of a job; did you mean 'epochs'?"]),
        (DATA, {"warmup": {"epoch": 3}}, ["train.warmup.epoch is not a key of a job; did you mean 'epochs'?"]),
        (DATA, {"xyz": 1}, ["train.xyz is not a key of a job; it knows epochs, warmup, weights"]),
        (DATA | {"more": [{"kind": "folders", "uir": "x"}]}, {},
         ["data.more[0].uri is missing", "data.more[0].uir is not a key of a job; did you mean 'uri'?"]),
        (DATA | {"more": [{"kind": "folder", "uri": "x"}]}, {},
         ["data.more[0].kind is 'folder'; it must be one of 'coco', 'folders'"]),
        (DATA | {"more": [{"uri": "x"}]}, {}, ["data.more[0].kind is missing"]),
        (DATA | {"val": {"kind": "folders", "uri": "x", "dpth": 1}}, {},
         ["data.val.dpth is not a key of a job; did you mean 'depth'?"]),
        (DATA | {"val": {"kind": "folders", "uri": "x", "depth": 0}}, {},
         ["data.val.depth is 0; it must be greater than or equal to 1"]),
        (DATA | {"val": {"kind": "folder", "uri": "x"}}, {},
         ["data.val.kind is 'folder'; it must be one of 'coco', 'folders'"]),
        (DATA | {"val": {"shar": 0.2}}, {},
         ["data.val.share is missing", "data.val.shar is not a key of a job; did you mean 'share'?"]),
        (DATA | {"val": {"share": 20}}, {}, ["data.val.share is 20; it must be less than 1"]),
        (DATA | {"val": 0.2}, {}, ["data.val is 0.2; it must be a mapping of keys to values"]),
        (DATA, {"epochs": "lots"},
         ["train.epochs is 'lots'; it must be a valid integer, unable to parse string as an integer, or it must be 'auto'"]),  # noqa: E501
        (DATA, {"weights": {"cat": "x"}},
         ["train.weights.cat is 'x'; it must be a valid number, unable to parse string as a number"]),
        (DATA, {"weights": {"cat": 0, "dog": -1}},
         ["train.weights.cat is 0; it must be above 0", "train.weights.dog is -1; it must be above 0"]),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_path_in_the_file_whatever_the_shape_of_the_spec(
    data: dict[str, Any], train: dict[str, Any], expected: list[str]
) -> None:
    assert find_mistakes({"data": data, "train": train}) == expected


def test_a_contradiction_between_keys_names_the_keys_and_their_section() -> None:
    lines = ["span: low is 3 and high 2; low must not be above high"]
    assert find_mistakes({"data": DATA, "train": {}, "span": {"low": 3, "high": 2}}) == lines
    assert find_mistakes({"low": 3, "high": 2}, Span) == ["low is 3 and high 2; low must not be above high"]


def test_all_mistakes_are_reported_at_once() -> None:
    assert len(find_mistakes({"data": {"trian": {}}, "train": {"epochs": 0, "weigths": {}}, "sed": 1})) == 5


@pytest.mark.parametrize(
    "images",
    [
        {"kind": "coco", "uri": "x", "storage_options": "hunter2"},
        {"kind": "coco", "storage_optoins": {"secret": "hunter2"}},
        {"kind": "cooc", "storage_options": {"secret": "hunter2"}},
        {"storage_options": {"secret": "hunter2"}},
        [{"storage_options": {"secret": "hunter2"}}],
    ],
)
def test_no_line_shows_a_secret(images: Any) -> None:
    for data in ({"train": images}, DATA | {"val": images}, DATA | {"more": [images]}):
        assert "hunter2" not in "\n".join(find_mistakes({"data": data, "train": {}}))


def test_a_job_of_the_other_kind_is_refused_with_the_command_that_takes_it() -> None:
    tagging: dict[str, Any] = {"version": 1, "source": {}, "models": [], "output": {}}
    (line,) = find_mistakes(tagging)
    assert line == (
        "is a tagging job (it has models and source): give it to `batchtag run`. "
        "`batchtag train` takes a training job, which has data"
    )
    with pytest.raises(JobFileError) as caught:
        make_spec({"version": 1, "data": DATA, "train": {}, "output": {}}, origin="job.yaml")
    assert caught.value.message == (
        "job.yaml: is a training job (it has data): give it to `batchtag train`. "
        "`batchtag run` takes a tagging job, which has models and source"
    )


def test_a_spec_that_is_not_a_whole_job_can_be_parsed() -> None:
    assert parse_spec(Holdout, {"share": 0.5}, origin="--holdout").share == 0.5
    assert find_mistakes({"share": 0.5, "data": 1, "train": 2}, Holdout) == [
        "data is not a key of a job; it knows share",
        "train is not a key of a job; it knows share",
    ]


def test_keys_that_are_not_words_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("data: {train: {kind: coco, uri: x}}\ntrain: {}\n3: x\n")
    assert find_mistakes(read_job_file(path)) == ["the key 3 is not a word; the keys of a job are words"]


class Renamed(Spec):
    renamed_keys: ClassVar = {"old_size": "size"}
    renamed_values: ClassVar = {"mode": {"slow_way": "slow"}}

    size: int = Field(default=1, ge=1)
    mode: Literal["slow", "fast"] = "fast"


class RenamedJob(Spec):
    parts: list[Renamed]


def test_old_names_of_keys_and_values_are_read_as_the_new_ones() -> None:
    job = parse_spec(RenamedJob, {"parts": [{"old_size": 3, "mode": "slow_way"}]}, origin="job.yaml")
    assert job == RenamedJob(parts=[Renamed(size=3, mode="slow")])


def test_a_mistake_under_an_old_name_is_reported_with_the_name_that_the_file_has() -> None:
    assert find_mistakes({"parts": [{"size": 0}, {"old_size": 0}, {"mode": "slo"}]}, RenamedJob) == [
        "parts[0].size is 0; it must be greater than or equal to 1",
        "parts[1].old_size is 0; it must be greater than or equal to 1",
        "parts[2].mode is 'slo'; it must be 'slow' or 'fast'",
    ]


def test_the_old_and_the_new_name_of_a_key_together_are_a_mistake() -> None:
    assert find_mistakes({"parts": [{"old_size": 1, "size": 2}]}, RenamedJob) == [
        "parts[0]: old_size is the old name of size, and both are set; remove old_size"
    ]

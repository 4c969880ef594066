from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchtag.config.job import JobSpec, load_spec, make_spec, parse_model
from batchtag.config.loader import parse, read_job_file
from batchtag.config.model import CropsOf
from batchtag.config.training import TrainSpec
from batchtag.errors import JobFileError

SMALLEST = """
version: 1
source: {kind: prefix, uris: [/photos]}
models:
  - kind: constant
output: {uri: /tags}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


def mistakes(path: Path) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load_spec(path)
    assert caught.value.exit_code == 2
    lines = caught.value.message.split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_the_smallest_job_has_the_defaults_we_would_choose(write: Any) -> None:
    spec = load_spec(write(SMALLEST))
    assert (spec.max_failure_rate, spec.compute.device, spec.decode.scaled) == (0.05, "auto", True)
    assert "heif" in spec.decode.formats or "jpeg" in spec.decode.formats


def test_five_mistakes_are_reported_at_once_each_with_its_path_and_value(write: Any) -> None:
    path = write("""
version: 2
source: {kind: prefix, uris: []}
models:
  - kind: torchvision
    builder: resnet50
    score_floor: 1.7
output: {}
max_failure_rate: lots
""")
    found = mistakes(path)
    assert len(found) == 5
    assert "version is 2; it must be 1" in found
    assert "output.uri is missing" in found
    assert any(line.startswith("models[0].score_floor is 1.7; ") for line in found)
    assert any(line.startswith("source.uris is []; ") for line in found)
    assert any(line.startswith("max_failure_rate is 'lots'; ") for line in found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output:", "outptu: {}\noutput:", "outptu is not a key of a job; did you mean 'output'?"),
        ("{uri: /tags}", "{uri: /tags, url: x}", "output.url is not a key of a job; did you mean 'uri'?"),
        ("kind: constant", "{kind: constant, tga: x}", "models[0].tga is not a key of a job; did you mean 'tag'?"),
        ("[/photos]}", "[/photos], limti: 3}", "source.limti is not a key of a job; did you mean 'limit'?"),
        ("output:", "compute: {actor: 2}\noutput:", "compute.actor is not a key of a job; did you mean 'actors'?"),
        ("output:", "decode: {scale: 2}\noutput:", "decode.scale is not a key of a job; did you mean 'scaled'?"),
        (
            "kind: constant",
            "{kind: constant, name: a}\n  - {kind: constant, on: {crops_of: a, min_scor: 1}}",
            "models[1].on.min_scor is not a key of a job; did you mean 'min_score'?",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest(write: Any, old: str, new: str, message: str) -> None:
    assert mistakes(write(SMALLEST.replace("- kind: constant", "- kind: constant").replace(old, new, 1))) == [message]


def test_on_is_a_word_and_no_boolean(write: Any) -> None:
    path = write("""
version: 1
source: {kind: prefix, uris: [/photos]}
models:
  - {kind: constant, name: things, task: detect}
  - kind: constant
    name: off
    on: {crops_of: things}
  - kind: constant
    name: yes
    on: image
output: {uri: /no}
decode: {scaled: false}
""")
    spec = load_spec(path)
    assert [model.name for model in spec.models] == ["things", "off", "yes"]
    assert spec.models[1].on == CropsOf(crops_of="things")
    assert spec.decode.scaled is False


def test_a_key_that_comes_twice_is_a_mistake_and_its_line_is_named(write: Any) -> None:
    assert mistakes(write(SMALLEST + "output: {uri: /elsewhere}\n")) == [
        "is not YAML: line 7: the key 'output' comes twice"
    ]
    assert "comes twice" in mistakes(write(SMALLEST.replace("{uri: /tags}", "{uri: /a, uri: /b}")))[0]


def test_anchors_and_merges_of_yaml_work_within_a_file(write: Any) -> None:
    text = SMALLEST.replace("  - kind: constant", "  - &one {kind: constant, name: a, tag: x}\n  - {<<: *one, name: b}")
    assert [(model.name, getattr(model, "tag", "")) for model in load_spec(write(text)).models] == [
        ("a", "x"),
        ("b", "x"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds NoneType, not the keys of a job; see jobs/ for examples"),
        ("[1, 2]", "holds list, not the keys of a job; see jobs/ for examples"),
        ("just words", "holds str, not the keys of a job; see jobs/ for examples"),
    ],
)
def test_what_is_no_job_at_all_is_said_to_be_none(write: Any, text: str, message: str) -> None:
    assert mistakes(write(text)) == [message]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"none\.yaml: cannot be read: No such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(JobFileError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobFileError, match="is not UTF-8"):
        load_spec(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    "source",
    [
        "{kind: prefix, uris: [/p], storage_options: hunter2}",
        "{kind: prefix, uris: [/p], storage_options: [hunter2]}",
        "{kind: s3, uris: [/p], storage_options: {secret: hunter2}}",
        "{storage_options: {secret: hunter2}, uris: [/p]}",
        "[{storage_options: {secret: hunter2}}]",
        "{kind: prefix, uris: {storage_options: {secret: hunter2}}}",
        "{kind: prefix, storage_options: {secret: hunter2}",
        "{kind: prefix, storage_options: {secret: *hunter2}}",
        "{kind: prefix, storage_options: {secret: hunter2, secret: hunter2}}",
        "{kind: prefix, uris: [/p], storage_optoins: {secret: hunter2}}",
        "{kind: prefix, uris: [/p], secret: hunter2}",
    ],
)
def test_a_secret_is_in_no_error_whatever_is_wrong_around_it(write: Any, source: str) -> None:
    text = SMALLEST.replace("{kind: prefix, uris: [/photos]}", source)
    path = write(text)
    with pytest.raises(JobFileError) as caught:
        load_spec(path)
    assert "hunter2" not in caught.value.message


def test_broken_yaml_is_pointed_at(write: Any) -> None:
    (line,) = mistakes(write("version: 1\nsource: {kind: prefix\nmodels: []\n"))
    assert line.startswith("is not YAML: line 3, column ")


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (
            [{"kind": "constant"}, {"kind": "constant"}],
            ["models[1].name is 'constant', as models[0]'s; give each model a name of its own"],
        ),
        (
            [{"kind": "constant", "on": {"crops_of": "constant"}}],
            ["models[0].on.crops_of is 'constant'; the other models are []"],
        ),
        (
            [
                {"kind": "constant", "name": "a"},
                {"kind": "constant", "name": "b", "on": {"crops_of": "a"}},
                {"kind": "constant", "name": "c", "on": {"crops_of": "b"}},
                {"kind": "constant", "name": "d", "on": {"crops_of": "z"}},
            ],
            [
                "models[2].on.crops_of is 'b', which itself looks at crops; one level only",
                "models[3].on.crops_of is 'z'; the other models are ['a', 'b', 'c']",
            ],
        ),
    ],
)
def test_names_and_crops_that_lead_nowhere_are_refused(models: list[dict[str, Any]], found: list[str]) -> None:
    with pytest.raises(JobFileError) as caught:
        make_spec({"version": 1, "source": {"uris": ["/p"], "kind": "prefix"}, "models": models, "output": {"uri": "/o"}}, origin="j")  # fmt: skip  # noqa: E501
    assert caught.value.message.split("\n") == [f"j: {line}" for line in found]


def test_on_that_is_neither_is_one_line(write: Any) -> None:
    (line,) = mistakes(write(SMALLEST.replace("- kind: constant", "- {kind: constant, on: crops}")))
    assert line.startswith("models[0].on is 'crops'; it must be 'image', or ")


def test_an_unknown_format_lists_those_there_are(write: Any) -> None:
    (line,) = mistakes(write(SMALLEST + "decode: {formats: [jpeg, jpg]}\n"))
    assert line.startswith("decode.formats[1] is 'jpg'; it must be one of avif, ")


def test_local_paths_become_absolute_and_uris_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    content: dict[str, Any] = {
        "version": 1,
        "source": {"kind": "prefix", "uris": ["photos/", "s3://b/a%20b/../c/"]},
        "models": [{"kind": "checkpoint", "uri": "model"}, {"kind": "checkpoint", "uri": "s3://m/x"}],
        "output": {"uri": "tags/"},
    }
    spec = make_spec(content, origin="j")
    assert getattr(spec.source, "uris", None) == [f"{tmp_path}/photos/", "s3://b/a%20b/../c/"]
    assert [getattr(model, "uri", "") for model in spec.models] == [f"{tmp_path}/model", "s3://m/x"]
    assert spec.output.uri == f"{tmp_path}/tags"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("resnet50", {"kind": "torchvision", "builder": "resnet50"}),
        ("torchvision:resnet50", {"kind": "torchvision", "builder": "resnet50"}),
        ("resnet50@IMAGENET1K_V1", {"kind": "torchvision", "builder": "resnet50", "weights": "IMAGENET1K_V1"}),
        ("constant", {"kind": "constant"}),
        ("./mine", {"kind": "checkpoint", "uri": "./mine"}),
        ("s3://m/x", {"kind": "checkpoint", "uri": "s3://m/x"}),
    ],
)
def test_a_flag_says_what_a_file_would_say(flag: str, said: dict[str, Any]) -> None:
    base = {"version": 1, "source": {"kind": "prefix", "uris": ["/p"]}, "output": {"uri": "/o"}}
    by_flag = make_spec({**base, "models": [parse_model(flag, task="classify")]}, origin="run")
    by_file = make_spec({**base, "models": [{**said, "task": "classify"}]}, origin="job.yaml")
    assert by_flag == by_file


def test_flags_for_all_models_reach_a_model_that_does_not_say_otherwise() -> None:
    untrained = parse_model("resnet50", task="classify", weights="none", seed=3)
    assert (untrained["weights"], untrained["seed"]) == ("none", 3)
    assert parse_model("resnet50@DEFAULT", task="classify", weights="none")["weights"] == "DEFAULT"


def test_a_spec_does_not_change_after_reading(write: Any) -> None:
    spec: JobSpec = load_spec(write(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        spec.max_failure_rate = 1.0


JOBS = sorted(Path(__file__).parents[2].glob("jobs/*.yaml"))
TRAININGS = [*(path for path in JOBS if path.name.startswith("train-")), *sorted(JOBS[0].parent.glob("demo/*.yaml"))]


@pytest.mark.parametrize("path", sorted({*JOBS} - {*TRAININGS}), ids=lambda path: path.name)
def test_every_job_we_ship_loads_and_says_who_runs_it(path: Path) -> None:
    assert load_spec(path).version == 1
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.name)
def test_every_training_job_we_ship_loads_and_says_who_runs_it(path: Path) -> None:
    assert parse(TrainSpec, read_job_file(path), origin=str(path)).version == 1
    assert path.read_text().startswith("# ")

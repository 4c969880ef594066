"""Tagging jobs: what a job file may contain, how its mistakes are reported, and which jobs are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchtag.config.job import JobSpec, load_spec, make_spec, parse_model_flag, rows_depend_on
from batchtag.config.loader import parse_spec, read_job_file
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


def find_mistakes(path: Path) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load_spec(path)
    assert caught.value.exit_code == 2
    lines = caught.value.message.split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_the_smallest_job_gets_the_defaults(write: Any) -> None:
    spec = load_spec(write(SMALLEST))
    assert (spec.max_failure_rate, spec.compute.device, spec.decode.scaled) == (0.05, "auto", True)
    assert "heif" in spec.decode.formats or "jpeg" in spec.decode.formats


def test_all_mistakes_are_reported_at_once_each_with_its_path_and_value(write: Any) -> None:
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
    lines = find_mistakes(path)
    assert len(lines) == 5
    assert "version is 2; it must be 1" in lines
    assert "output.uri is missing" in lines
    assert any(line.startswith("models[0].score_floor is 1.7; ") for line in lines)
    assert any(line.startswith("source.uris is []; ") for line in lines)
    assert any(line.startswith("max_failure_rate is 'lots'; ") for line in lines)


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
def test_an_unknown_key_is_refused_and_the_most_similar_key_is_suggested(
    write: Any, old: str, new: str, message: str
) -> None:
    assert find_mistakes(write(SMALLEST.replace("- kind: constant", "- kind: constant").replace(old, new, 1))) == [
        message
    ]


def test_the_yaml_words_on_off_yes_and_no_are_not_booleans(write: Any) -> None:
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


def test_a_repeated_key_is_a_mistake_and_its_line_is_named(write: Any) -> None:
    assert find_mistakes(write(SMALLEST + "output: {uri: /elsewhere}\n")) == [
        "is not YAML: line 7: the key 'output' is repeated"
    ]
    assert "is repeated" in find_mistakes(write(SMALLEST.replace("{uri: /tags}", "{uri: /a, uri: /b}")))[0]


def test_yaml_anchors_and_merge_keys_work_within_a_file(write: Any) -> None:
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
def test_a_file_that_does_not_hold_a_mapping_is_refused_with_what_it_holds(write: Any, text: str, message: str) -> None:
    assert find_mistakes(write(text)) == [message]


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
def test_no_error_message_shows_a_secret(write: Any, source: str) -> None:
    text = SMALLEST.replace("{kind: prefix, uris: [/photos]}", source)
    path = write(text)
    with pytest.raises(JobFileError) as caught:
        load_spec(path)
    assert "hunter2" not in caught.value.message


def test_a_yaml_syntax_error_is_reported_with_line_and_column(write: Any) -> None:
    (line,) = find_mistakes(write("version: 1\nsource: {kind: prefix\nmodels: []\n"))
    assert line.startswith("is not YAML: line 3, column ")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (
            [{"kind": "constant"}, {"kind": "constant"}],
            ["models[1].name is 'constant', the name of models[0]; give each model a name of its own"],
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
                "models[2].on.crops_of is 'b', which itself gets crops; crops of crops are not supported",
                "models[3].on.crops_of is 'z'; the other models are ['a', 'b', 'c']",
            ],
        ),
    ],
)
def test_repeated_names_and_crops_of_a_wrong_model_are_refused(
    models: list[dict[str, Any]], expected: list[str]
) -> None:
    with pytest.raises(JobFileError) as caught:
        make_spec({"version": 1, "source": {"uris": ["/p"], "kind": "prefix"}, "models": models, "output": {"uri": "/o"}}, origin="j")  # fmt: skip  # noqa: E501
    assert caught.value.message.split("\n") == [f"j: {line}" for line in expected]


def test_an_on_that_is_neither_image_nor_crops_is_reported_in_one_line(write: Any) -> None:
    (line,) = find_mistakes(write(SMALLEST.replace("- kind: constant", "- {kind: constant, on: crops}")))
    assert line.startswith("models[0].on is 'crops'; it must be 'image', or ")


def test_an_unknown_format_is_refused_and_the_known_ones_are_listed(write: Any) -> None:
    (line,) = find_mistakes(write(SMALLEST + "decode: {formats: [jpeg, jpg]}\n"))
    assert line.startswith("decode.formats[1] is 'jpg'; it must be one of avif, ")


def test_local_paths_become_absolute_and_uris_stay_unchanged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    ("flag", "in_file"),
    [
        ("resnet50", {"kind": "torchvision", "builder": "resnet50"}),
        ("torchvision:resnet50", {"kind": "torchvision", "builder": "resnet50"}),
        ("resnet50@IMAGENET1K_V1", {"kind": "torchvision", "builder": "resnet50", "weights": "IMAGENET1K_V1"}),
        ("constant", {"kind": "constant"}),
        ("./mine", {"kind": "checkpoint", "uri": "./mine"}),
        ("s3://m/x", {"kind": "checkpoint", "uri": "s3://m/x"}),
    ],
)
def test_a_model_flag_means_the_same_as_the_model_in_a_file(flag: str, in_file: dict[str, Any]) -> None:
    base = {"version": 1, "source": {"kind": "prefix", "uris": ["/p"]}, "output": {"uri": "/o"}}
    by_flag = make_spec({**base, "models": [parse_model_flag(flag, task="classify")]}, origin="run")
    by_file = make_spec({**base, "models": [{**in_file, "task": "classify"}]}, origin="job.yaml")
    assert by_flag == by_file


def test_weights_and_seed_flags_apply_to_models_without_weights_of_their_own() -> None:
    untrained = parse_model_flag("resnet50", task="classify", weights="none", seed=3)
    assert (untrained["weights"], untrained["seed"]) == ("none", 3)
    assert parse_model_flag("resnet50@DEFAULT", task="classify", weights="none")["weights"] == "DEFAULT"


def test_a_spec_cannot_be_changed(write: Any) -> None:
    spec: JobSpec = load_spec(write(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        spec.max_failure_rate = 1.0


BASE: dict[str, Any] = {
    "version": 1,
    "source": {"kind": "prefix", "uris": ["s3://b/photos/"]},
    "models": [{"kind": "constant"}],
    "output": {"uri": "s3://b/tags"},
}


def rows_of(**changes: Any) -> dict[str, Any]:
    return rows_depend_on(make_spec({**BASE, **changes}, origin="test"))


@pytest.mark.parametrize(
    "changes",
    [
        {"compute": {"actors": 4, "decode": "separate", "device": "cpu", "retries": 2}},
        {"max_failure_rate": 1},
        {"decode": {"timeout_s": 5}},
        {"output": {"uri": "s3://b/other"}},
        {"source": {**BASE["source"], "storage_options": {"key": "hunter2"}}},
        {"models": [{"kind": "constant", "task": "classify"}]},
    ],
)
def test_how_a_job_is_run_does_not_decide_its_rows(changes: dict[str, Any]) -> None:
    assert rows_of(**changes) == rows_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"compute": {"precision": "bfloat16"}},
        {"decode": {"depth": "scale"}},
        {"source": {**BASE["source"], "limit": 5}},
        {"models": [{"kind": "constant", "tag": "x"}]},
    ],
)
def test_images_models_decode_rules_and_precision_decide_the_rows(changes: dict[str, Any]) -> None:
    assert rows_of(**changes) != rows_of()


def test_the_old_word_own_pool_still_means_separate_decode_workers(write: Any) -> None:
    spec = load_spec(write(SMALLEST + "compute: {decode: own_pool}\n"))
    assert spec.compute.decode == "separate"


JOBS = sorted(Path(__file__).parents[2].glob("jobs/*.yaml"))
TRAININGS = [*(path for path in JOBS if path.name.startswith("train-")), *sorted(JOBS[0].parent.glob("demo/*.yaml"))]


@pytest.mark.parametrize("path", sorted({*JOBS} - {*TRAININGS}), ids=lambda path: path.name)
def test_every_shipped_tagging_job_loads_and_begins_with_a_comment(path: Path) -> None:
    assert load_spec(path).version == 1
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.name)
def test_every_shipped_training_job_loads_and_begins_with_a_comment(path: Path) -> None:
    assert parse_spec(TrainSpec, read_job_file(path), origin=str(path)).version == 1
    assert path.read_text().startswith("# ")

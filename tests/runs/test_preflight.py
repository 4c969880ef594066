from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchtag.config.job import JobSpec, make_spec
from batchtag.errors import UsageError
from batchtag.runs.preflight import check_output_and_source


def job(source: str, out: str, kind: str = "prefix") -> JobSpec:
    location: dict[str, Any] = {"uri": source} if kind == "manifest" else {"uris": ["s3://elsewhere/", source]}
    content = {
        "version": 1,
        "source": {"kind": kind, **location},
        "models": [{"kind": "constant"}],
        "output": {"uri": out},
    }
    return make_spec(content, origin="test")


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("s3://b/photos/", "s3://b/photos/tags"),
        ("s3://b/photos", "s3://b/photos/"),
        ("s3://b", "s3://b/tags"),
        ("/photos/", "/photos/a/b"),
        ("/", "/tags"),
        ("./photos", "photos/../photos/tags"),
    ],
)
def test_out_inside_the_source_is_refused(source: str, out: str) -> None:
    with pytest.raises(UsageError, match="lies inside the source"):
        check_output_and_source(job(source, out))


@pytest.mark.parametrize("folder", ["images", "tags/2026", "errors", "_batchtag/index"])
def test_a_source_inside_a_folder_where_the_run_writes_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="where the run writes"):
        check_output_and_source(job(f"s3://b/out/{folder}", "s3://b/out"))


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("s3://b/photos/", "s3://b/photos-tags"),
        ("s3://b/photos", "s3://b/tags"),
        ("s3://b/out/photos", "s3://b/out"),
        ("s3://b/images-of-cats", "s3://b/"),
        ("s3://photos", "s3://photos-2/tags"),
        ("/b/photos", "s3://b/photos/tags"),
    ],
)
def test_a_source_beside_out_or_in_another_folder_of_out_is_accepted(source: str, out: str) -> None:
    check_output_and_source(job(source, out))


def test_a_symbolic_link_does_not_hide_that_out_and_source_overlap(tmp_path: Path) -> None:
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "inner")
    with pytest.raises(UsageError, match="lies inside the source"):
        check_output_and_source(job(str(tmp_path / "photos"), str(tmp_path / "link" / "tags")))
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="where the run writes"):
        check_output_and_source(job(str(tmp_path / "again" / "out" / "images"), str(tmp_path / "out")))


def test_shards_are_checked_too_and_a_manifest_may_be_anywhere() -> None:
    with pytest.raises(UsageError, match="lies inside the source"):
        check_output_and_source(job("s3://b/shards/", "s3://b/shards/tags", kind="shards"))
    check_output_and_source(job("s3://b/out/list.txt", "s3://b/out", kind="manifest"))

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchtag.config.job import JobSpec, make_spec
from batchtag.errors import UsageError
from batchtag.runs.preflight import check_places


def job(source: str, out: str, kind: str = "prefix") -> JobSpec:
    place: dict[str, Any] = {"uri": source} if kind == "manifest" else {"uris": ["s3://elsewhere/", source]}
    content = {
        "version": 1,
        "source": {"kind": kind, **place},
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
        check_places(job(source, out))


@pytest.mark.parametrize("folder", ["images", "tags/2026", "errors", "_batchtag/index"])
def test_a_source_where_the_run_writes_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="where the run writes"):
        check_places(job(f"s3://b/out/{folder}", "s3://b/out"))


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
def test_neighbours_and_images_below_out_are_fine(source: str, out: str) -> None:
    check_places(job(source, out))


def test_a_link_does_not_hide_that_out_is_inside(tmp_path: Path) -> None:
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "inner")
    with pytest.raises(UsageError, match="lies inside the source"):
        check_places(job(str(tmp_path / "photos"), str(tmp_path / "link" / "tags")))
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="where the run writes"):
        check_places(job(str(tmp_path / "again" / "out" / "images"), str(tmp_path / "out")))


def test_shards_are_looked_at_and_a_manifest_may_lie_anywhere() -> None:
    with pytest.raises(UsageError, match="lies inside the source"):
        check_places(job("s3://b/shards/", "s3://b/shards/tags", kind="shards"))
    check_places(job("s3://b/out/list.txt", "s3://b/out", kind="manifest"))

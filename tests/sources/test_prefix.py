"""Folders and prefixes: which objects are listed, in which order, and what is refused."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from batchtag.config.source import PrefixSource
from batchtag.errors import Code, StorageError, UsageError
from batchtag.sources import open_source
from batchtag.sources.listing import PAGE_IMAGES
from batchtag.storage.base import ObjectInfo
from batchtag.types import ImageRef


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def listed(*uris: Path | str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[ObjectInfo]:
    spec = PrefixSource(uris=[str(uri) for uri in uris], include=list(include), exclude=list(exclude))
    return [image for page in open_source(spec).pages() for image in page]


def names(folder: Path, images: list[ObjectInfo]) -> list[str]:
    return [image.uri.removeprefix(f"{folder}/") for image in images]


def test_images_are_found_by_extension_in_any_case_and_hidden_ones_too(tmp_path: Path) -> None:
    wanted = ["_x.jpg", ".x.JPG", "a.Jpeg", "deep/er/b.PNG", "_hidden/c.webp", "c.heic", "d.tif", "with\nnewline.gif"]
    make_files(tmp_path, *wanted, "notes.txt", "a.jpg.md", "jpg", "folder.jpg.d/readme", "Thumbs.db")
    assert sorted(names(tmp_path, listed(tmp_path))) == sorted(wanted)


def test_a_listing_has_size_time_and_etag(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg")
    (image,) = listed(tmp_path)
    assert image.uri == str(tmp_path / "a.jpg")
    assert image.size_bytes == 5
    assert image.etag
    assert image.last_modified is not None


def test_a_file_that_cannot_be_read_is_listed_with_its_problem(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to("missing.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    readable, broken_link, bad_name = listed(tmp_path)
    assert type(readable) is ObjectInfo
    assert isinstance(broken_link, ImageRef)
    assert isinstance(bad_name, ImageRef)
    assert broken_link.problem == f"not_found: {tmp_path}/b.jpg: no such file or directory"
    assert (bad_name.uri, bad_name.size_bytes) == (f"{tmp_path}/caf\\xe9.jpg", 1)
    assert bad_name.problem.startswith("bad_name: the name is not UTF-8")


def test_a_trailing_slash_changes_nothing(tmp_path: Path) -> None:
    make_files(tmp_path, "a.jpg", "b/c.jpg")
    assert listed(tmp_path) == listed(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*"], [], ["2026/a.jpg", "2026/x/b.dat", "a.jpg", "old/a.jpg"]),
        (["*.dat"], [], ["2026/x/b.dat"]),
        (["2026/*"], [], ["2026/a.jpg", "2026/x/b.dat"]),
        ([], ["old/*"], ["2026/a.jpg", "a.jpg"]),
        (["a.jpg"], [], ["a.jpg"]),
        (["**/a.jpg"], [], ["2026/a.jpg", "a.jpg", "old/a.jpg"]),
        (["2026/**/?.dat", "o[!x]d/*"], [], ["2026/x/b.dat", "old/a.jpg"]),
        (["2026/**/a.jpg"], [], ["2026/a.jpg"]),
        (["*.JPG"], [], []),
        (["*"], ["*.jpg"], ["2026/x/b.dat"]),
    ],
)
def test_globs_match_the_path_below_the_prefix(
    tmp_path: Path, include: list[str], exclude: list[str], expected: list[str]
) -> None:
    make_files(tmp_path, "a.jpg", "2026/a.jpg", "2026/x/b.dat", "old/a.jpg")
    found = listed(tmp_path, include=tuple(include), exclude=tuple(exclude))
    assert sorted(names(tmp_path, found)) == expected


def test_a_single_file_needs_no_extension_of_an_image(tmp_path: Path) -> None:
    make_files(tmp_path, "scan", "b.jpg")
    assert names(tmp_path, listed(tmp_path / "scan")) == ["scan"]
    assert names(tmp_path, listed(tmp_path / "scan", tmp_path / "b.jpg")) == ["scan", "b.jpg"]


def test_several_prefixes_are_listed_in_the_order_of_the_job(tmp_path: Path) -> None:
    make_files(tmp_path, "z/1.jpg", "a/1.jpg", "a-old/1.jpg")
    assert names(tmp_path, listed(tmp_path / "z", tmp_path / "a")) == ["z/1.jpg", "a/1.jpg"]
    assert names(tmp_path, listed(tmp_path / "a", tmp_path / "a-old")) == ["a/1.jpg", "a-old/1.jpg"]


def test_nested_and_repeated_prefixes_are_all_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        listed("s3://b/2026/01/", "s3://b/2026", "s3://b/2026/")
    assert caught.value.message.splitlines() == [
        "s3://b/2026/01/ lies under s3://b/2026; name one of them",
        "s3://b/2026/01/ lies under s3://b/2026/; name one of them",
        "s3://b/2026 is named twice; name it once",
    ]


def test_a_missing_folder_is_named_before_the_other_folders_are_listed(tmp_path: Path) -> None:
    make_files(tmp_path, "photos/a.jpg")
    spec = PrefixSource(uris=[str(tmp_path / "photos"), str(tmp_path / "photoz")])
    with pytest.raises(StorageError, match="photoz") as caught:
        next(open_source(spec).pages())
    assert caught.value.code is Code.NOT_FOUND


def test_a_folder_without_images_gives_no_page(tmp_path: Path) -> None:
    make_files(tmp_path, "notes.txt")
    assert list(open_source(PrefixSource(uris=[str(tmp_path)])).pages()) == []


def test_small_folders_share_a_page_and_large_folders_are_split(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{i % 50}/{i}.jpg" for i in range(PAGE_IMAGES + 10)))
    pages = list(open_source(PrefixSource(uris=[str(tmp_path)])).pages())
    assert [len(page) for page in pages] == [PAGE_IMAGES, 10]


def test_a_password_in_a_uri_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="storage_options") as caught:
        listed("s3://AKIA:hush/hush@bucket/x")
    assert "hush" not in caught.value.message


def test_every_nasty_name_that_the_disk_allows_is_listed_byte_exact(tmp_path: Path, shared_data: Path) -> None:
    entries = json.loads((shared_data / "nasty_keys.json").read_text(encoding="utf-8"))
    created: list[str] = []
    for entry in entries:
        name = base64.b64decode(entry["key_base64"]).decode("utf-8", "surrogateescape")
        parts = name.split("/")
        if not entry["local_fs_ok"] or not name.isprintable() or {"", ".", ".."} & set(parts):
            continue
        folder = tmp_path / str(len(created))  # one folder per name: some names are folders of other names
        make_files(folder, name)
        created.append(f"{folder}/{name}")
    assert len(created) > 20
    assert sorted(image.uri for image in listed(tmp_path, include=("*",))) == sorted(created)

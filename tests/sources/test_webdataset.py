"""Tar shards: the members, their offsets, and the rows of a damaged shard."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from batchtag.config.source import ShardsSource
from batchtag.errors import UsageError
from batchtag.sources import open_source
from batchtag.sources.webdataset import SHARDS_IN_FLIGHT
from batchtag.types import ImageRef

LONG = "/".join(["a folder with a long name"] * 12) + "/ü.jpg"


def add(tar: tarfile.TarFile, name: str, content: bytes = b"pixels") -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def make_shard(path: Path, names: Iterable[str], *, style: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=style) as tar:
        for name in names:
            add(tar, name, f"pixels of {name}".encode(errors="replace"))
    return path


def listed(*uris: Path, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[ImageRef]:
    spec = ShardsSource(uris=[str(uri) for uri in uris], include=list(include), exclude=list(exclude))
    images = [image for page in open_source(spec).pages() for image in page]
    refs = [image for image in images if isinstance(image, ImageRef)]
    assert len(refs) == len(images)
    return refs


def members(images: list[ImageRef]) -> list[str]:
    return [image.uri.partition(".tar#")[2] for image in images]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_has_the_offset_of_its_content(tmp_path: Path, style: int) -> None:
    names = ["a.jpg", "b.json", "_x.PNG", "ünï #%.jpg", *([] if style == tarfile.USTAR_FORMAT else [LONG])]
    path = make_shard(tmp_path / "0.tar", names, style=style)
    images = listed(path)
    assert members(images) == [name for name in names if name != "b.json"]
    for image, name in zip(images, members(images), strict=True):
        start = image.offset_bytes
        assert path.read_bytes()[start : start + image.size_bytes] == f"pixels of {name}".encode()
        assert (image.shard, image.problem) == (str(path), "")
        assert image.uri == f"{path}#{name}"
        assert image.etag


def test_the_shards_of_a_folder_are_listed_in_order(tmp_path: Path) -> None:
    count = SHARDS_IN_FLIGHT * 2 + 3
    for number in range(count):
        make_shard(tmp_path / "s" / f"{number:04}.tar", [f"{number}.jpg", f"{number}.txt"])
    (tmp_path / "s" / "index.json").write_text("{}")
    assert members(listed(tmp_path / "s")) == [f"{number}.jpg" for number in range(count)]


def test_globs_match_member_names(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a/1.jpg", "b/2.jpg", "b/3.dat"])
    assert members(listed(path, include=("b/*",), exclude=("*.jpg",))) == ["b/3.dat"]


def test_folders_links_and_empty_archives_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("x.jpg")
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
        add(tar, "a.jpg")
    make_shard(tmp_path / "1.tar", [])
    assert members(listed(tmp_path)) == ["a.jpg"]


def test_members_with_the_same_name_get_different_uris(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a.jpg", "a.jpg", "b.jpg", "a.jpg"])
    assert members(listed(path)) == ["a.jpg", "a.jpg#2", "b.jpg", "a.jpg#3"]


def test_a_member_whose_name_is_not_utf8_is_listed_without_a_problem(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["\udcff.jpg", "b.jpg"], style=tarfile.GNU_FORMAT)
    bad_name, whole = listed(path)
    assert members([bad_name, whole]) == ["\\xff.jpg", "b.jpg"]
    assert whole.problem == ""
    assert bad_name.problem == "", "a member is read by its offset, so its name does not matter"


def test_a_truncated_shard_gives_the_whole_members_and_one_row_for_the_truncated_member(tmp_path: Path) -> None:
    path = tmp_path / "0007.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "whole.jpg", b"x" * 600)
        add(tar, "a.jpg", b"x" * 48_200)
        add(tar, "missing.jpg")
    start = listed(path)[1].offset_bytes
    path.write_bytes(path.read_bytes()[: start + 3112])
    whole, cut = listed(path)
    assert (whole.uri, whole.problem) == (f"{path}#whole.jpg", "")
    assert cut.uri == f"{path}#a.jpg"
    assert cut.problem == (
        f"truncated: {path}: member 'a.jpg' ends after 3,112 of 48,200 bytes; the shard is truncated. Upload it again"
    )


def test_a_truncated_member_is_listed_even_if_it_is_not_an_image(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a.jpg", "a.json", "b.jpg"])
    path.write_bytes(path.read_bytes()[:1541])
    whole, cut = listed(path)
    assert (members([whole]), whole.problem) == (["a.jpg"], "")
    assert cut.problem.startswith(f"truncated: {path}: member 'a.json' ends after 5 of 16 bytes")


def test_a_shard_that_ends_between_members_gives_a_row_because_members_may_be_missing(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a.jpg", "b.jpg"])
    path.write_bytes(path.read_bytes()[:1024])
    whole, row = listed(path)
    assert members([whole]) == ["a.jpg"]
    assert row.uri == str(path)
    assert row.problem.startswith(f"truncated: {path}: ends after member 'a.jpg', without the end mark of a tar")


def test_a_damaged_header_gives_the_members_before_it_and_a_row(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a.jpg", "b.jpg", "c.jpg"])
    data = bytearray(path.read_bytes())
    data[1024 + 10] ^= 0xFF
    path.write_bytes(data)
    whole, row = listed(path)
    assert members([whole]) == ["a.jpg"]
    assert row.problem == (
        f"corrupt: {path}: has no header at byte 1,024, after member 'a.jpg'; the members after it cannot be found. "
        "Upload it again"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty: {}: has 0 bytes"),
        (b"<html>" * 200, "corrupt: {}: is not a tar"),
        (gzip.compress(bytes(10240), mtime=0), "unsupported: {}: compressed with gzip"),
    ],
)
def test_a_file_that_is_not_a_tar_gives_one_row_and_its_neighbours_are_listed(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(content)
    make_shard(tmp_path / "1.tar", ["a.jpg"])
    row, image = listed(tmp_path)
    assert row.uri == str(path)
    assert row.problem.startswith(problem.format(path))
    assert members([image]) == ["a.jpg"]


def test_a_compressed_shard_in_a_folder_gives_a_row(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        add(tar, "a.jpg")
    (row,) = listed(tmp_path)
    assert row.problem.startswith("unsupported: ")


def test_a_negative_size_does_not_cause_an_endless_loop(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "0.tar", ["a.jpg", "b.jpg"])
    header = tarfile.TarInfo("b.jpg")
    header.size = -1024
    data = path.read_bytes()
    path.write_bytes(data[:1024] + header.tobuf(tarfile.GNU_FORMAT) + data[1536:])
    whole, row = listed(path)
    assert members([whole]) == ["a.jpg"]
    assert "says -1024 bytes" in row.problem


@pytest.mark.parametrize("cut", [0, 1, 7, 20])
def test_a_damaged_pax_header_gives_a_row(tmp_path: Path, cut: int) -> None:
    path = make_shard(tmp_path / "0.tar", [LONG])
    data = bytearray(path.read_bytes())
    data[512 + cut : 512 + cut + 4] = b"9z9 "
    path.write_bytes(data)
    rows = listed(path)
    assert all(row.problem.startswith("corrupt: ") or row.uri.startswith(f"{path}#") for row in rows)
    assert rows


def test_a_listing_that_is_closed_early_leaves_no_thread(tmp_path: Path) -> None:
    for number in range(40):
        make_shard(tmp_path / f"{number}.tar", [f"{i}.jpg" for i in range(300)])
    pages = open_source(ShardsSource(uris=[str(tmp_path)])).pages()
    next(pages)
    pages.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards")]


def test_a_shard_named_twice_is_refused(tmp_path: Path) -> None:
    make_shard(tmp_path / "0.tar", ["a.jpg"])
    with pytest.raises(UsageError, match="lies under"):
        listed(tmp_path, tmp_path / "0.tar")

"""Manifests: their formats, relative and repeated URIs, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from batchtag.config.source import ManifestSource
from batchtag.errors import Code, StorageError, UsageError
from batchtag.sources import open_source
from batchtag.sources.manifest import ManifestListing
from batchtag.storage.base import ObjectInfo

URIS = ["s3://b/z.jpg", "s3://b/a b#1%2F.jpg", "s3://b/ünï?x=1.jpg", "s3://b/ ", "gs://c/_x.jpg"]


def listed(path: Path, **options: Any) -> list[ObjectInfo]:
    return [image for page in open_source(ManifestSource(uri=str(path), **options)).pages() for image in page]


def uris(path: Path, **options: Any) -> list[str]:
    return [image.uri for image in listed(path, **options)]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_plain_text_has_one_uri_per_line_and_keeps_spaces(tmp_path: Path) -> None:
    assert uris(write(tmp_path / "list", "\n".join(URIS))) == URIS
    assert uris(write(tmp_path / "list.txt", "\ufeff" + "\r\n".join(URIS) + "\r\n\r\n   \r\n")) == URIS


def test_parquet_csv_and_jsonl_give_the_same_listing(tmp_path: Path) -> None:
    table = pa.table(
        {"n": range(len(URIS)), "uri": URIS, "etag": ['"e"', "", None, "x", "y"], "size": [1, 2, None, 4, 5]}
    )
    pq.write_table(table, tmp_path / "m.parquet")
    pa_csv.write_csv(table, tmp_path / "m.csv")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
    found = [
        listed(tmp_path / f"m.{kind}", etag_column="etag", size_column="size") for kind in ("parquet", "csv", "jsonl")
    ]
    expected = [
        ObjectInfo(uri=uri, etag=etag, size_bytes=size)
        for uri, etag, size in zip(URIS, ["e", "", "", "x", "y"], [1, 2, -1, 4, 5], strict=True)
    ]
    assert found == [expected] * 3


def test_a_compressed_manifest_is_unpacked_while_it_is_read(tmp_path: Path) -> None:
    text = "\n".join(URIS).encode()
    (tmp_path / "m.txt.gz").write_bytes(gzip.compress(text))
    (tmp_path / "m.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"uri\n" + text))
    assert uris(tmp_path / "m.txt.gz") == uris(tmp_path / "m.bz2") == uris(tmp_path / "m.csv.gz") == URIS


def test_a_folder_of_files_is_one_manifest(tmp_path: Path) -> None:
    for number, uri in enumerate(URIS):
        pq.write_table(pa.table({"uri": [uri]}), tmp_path / f"part-{number}.parquet")
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / ".part-0.parquet.crc", "x")
    assert uris(tmp_path) == URIS


def test_the_type_of_an_unused_column_may_change(tmp_path: Path) -> None:
    lines = ["uri,n"] + [f"s3://b/{i},{i}" for i in range(200_000)] + ["s3://b/last,many"]
    assert len(uris(write(tmp_path / "m.csv", "\n".join(lines)))) == 200_001


def test_a_quoted_newline_belongs_to_the_key(tmp_path: Path) -> None:
    assert uris(write(tmp_path / "m.csv", 'uri\n"s3://b/a\nb.jpg"\n')) == ["s3://b/a\nb.jpg"]


def test_relative_uris_start_from_the_folder_of_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "a.jpg\n./b/c.jpg\n../d.jpg\n/e/f.jpg\nfile:///g.jpg\n~h.jpg\ns3://b/i.jpg\n")
    expected = [f"{tmp_path}/a.jpg", f"{tmp_path}/b/c.jpg", f"{tmp_path.parent}/d.jpg", "/e/f.jpg", "/g.jpg"]
    assert uris(path) == [*expected, f"{tmp_path}/~h.jpg", "s3://b/i.jpg"]


def test_a_repeated_uri_is_listed_at_its_first_line_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "m.csv", "key,tag\n" + "".join(f"s3://b/{n},{i}\n" for i, n in enumerate("cabcbda")))
    source = open_source(ManifestSource(uri=str(path), column="key", etag_column="tag"))
    assert isinstance(source, ManifestListing)
    with caplog.at_level(logging.WARNING):
        images = [image for page in source.pages() for image in page]
    assert [(image.uri, image.etag) for image in images] == [
        ("s3://b/c", "0"), ("s3://b/a", "1"), ("s3://b/b", "2"), ("s3://b/d", "5")
    ]  # fmt: skip
    assert source.num_repeated == 3
    assert "3 lines repeat a URI of an earlier line" in caplog.text


def test_a_long_manifest_is_listed_in_its_order(tmp_path: Path) -> None:
    names = [f"s3://b/{(i * 7919) % 50_021}" for i in range(50_021)]
    path = write(tmp_path / "m.txt", "\n".join([*names, *names[:100]]))
    source = ManifestListing(ManifestSource(uri=str(path)))
    pages = list(source.pages())
    assert [image.uri for page in pages for image in page] == names
    assert max(map(len, pages)) <= 4096
    assert source.num_repeated == 100


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_error_for_a_missing_column_lists_the_columns_by_similarity(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"m.{kind}"
    match kind:
        case "csv":
            write(path, "size,uri_s3\n1,s3://b/a\n")
        case "jsonl":
            write(path, '{"size": 1, "uri_s3": "s3://b/a"}\n')
        case _:
            pq.write_table(pa.table({"size": [1], "uri_s3": ["s3://b/a"]}), path)
    with pytest.raises(UsageError) as caught:
        listed(path)
    assert caught.value.message == f"{path}: has no column 'uri'; it has 'uri_s3', 'size'"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.jsonl", '{"uri": "a"}\n{"uri": \n', "line 2 is not JSON"),
        ("m.jsonl", "[1]\n", "line 1 holds a list"),
        ("m.jsonl", '{"uri": 7}\n', "column 'uri' holds 7"),
        ("m.csv", "uri,n\na,1\nb\n", "Expected 2 columns, got 1"),
        ("m.parquet", "PAR1", "cannot be read as parquet"),
    ],
)
def test_the_error_for_content_that_cannot_be_read_names_its_place(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match="cannot be read as") as caught:
        listed(write(tmp_path / name, text))
    assert complaint in caught.value.message
    assert caught.value.message.startswith(f"{tmp_path}/{name}: ")


def test_binary_data_is_refused_as_plain_text(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match="cannot be read as text"):
        listed(tmp_path / "photo")


@pytest.mark.parametrize(
    "secret",
    [
        "https://user:hush@host/a.jpg",
        "https://hush@host/a.jpg",
        "s3://AKIA:hu/hush@bucket/a.jpg",
        "https://b.example/a.jpg?X-Amz-Credential=c&X-Amz-Signature=hush",
        "https://b.example/a.jpg?sv=1&sig=hush",
        "az://c/a.jpg?sig=hush",
        "https://b.example/a.jpg?token=hush",
    ],
)
def test_a_uri_with_a_secret_is_refused_by_its_row_and_not_shown(tmp_path: Path, secret: str) -> None:
    path = write(tmp_path / "m.txt", f"s3://b/1.jpg\n\n{secret}\n")
    with pytest.raises(UsageError, match=r"row 3 .*storage_options") as caught:
        listed(path)
    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    "uri", ["s3://b/a?sig=1.jpg", "s3://b/me@home:1.jpg", "abfs://c@account/a.jpg", "s3://b/a?token=1"]
)
def test_a_key_that_only_looks_like_a_secret_is_accepted(tmp_path: Path, uri: str) -> None:
    assert uris(write(tmp_path / "m.txt", uri)) == [uri]


def test_a_manifest_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing\.csv") as caught:
        listed(tmp_path / "missing.csv")
    assert caught.value.code is Code.NOT_FOUND


def test_an_empty_manifest_gives_no_page(tmp_path: Path) -> None:
    assert listed(write(tmp_path / "m.txt", "")) == []
    assert listed(write(tmp_path / "m.csv", "uri\n")) == []

"""The contract of `Source`, tested for every kind on the local disk and on a real S3 server."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchtag.config.source import ManifestSource, PrefixSource, ShardsSource, SourceSpec
from batchtag.errors import Code, StorageError
from batchtag.sources import open_source
from batchtag.storage import open_store
from batchtag.storage.base import ObjectInfo
from batchtag.types import ImageRef
from tests.support.s3server import S3Server

KEYS = ["_x.jpg", ".x.jpg", "a b#1%2F+?&.jpg", "ünï/cödé.JPG", "2026/z.png"]
Example = tuple[SourceSpec, list[str]]
"""A source, and the URIs that it must list."""


def make_prefix(root: str, options: dict[str, Any]) -> Example:
    store = open_store(root, options)
    for key in [*KEYS, "notes.txt"]:
        store.write(f"{root}/{key}", b"pixels")
    return PrefixSource(uris=[root], storage_options=options), [f"{root}/{key}" for key in KEYS]


def make_manifest(root: str, options: dict[str, Any]) -> Example:
    open_store(root, options).write(f"{root}/list.txt", "\n".join([*KEYS, KEYS[0]]).encode())
    return ManifestSource(uri=f"{root}/list.txt", storage_options=options), [f"{root}/{key}" for key in KEYS]


def make_shards(root: str, options: dict[str, Any]) -> Example:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in KEYS:
            member = tarfile.TarInfo(key)
            member.size = 3 * 2**20  # larger than a window, so that the content is skipped
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    open_store(root, options).write(f"{root}/0.tar", buffer.getvalue())
    return ShardsSource(uris=[root], storage_options=options), [f"{root}/0.tar#{key}" for key in KEYS]


MAKERS = pytest.mark.parametrize("make", [make_prefix, make_manifest, make_shards])


@pytest.fixture(params=["local", "s3"])
def root_and_options(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return str(tmp_path / "photos"), {}
    s3: S3Server = request.getfixturevalue("s3")
    return f"{request.getfixturevalue('bucket')}/2026", dict(s3.storage_options)


def listed(spec: SourceSpec) -> list[ObjectInfo]:
    return [image for page in open_source(spec).pages() for image in page]


@MAKERS
def test_every_object_is_listed_exactly_once_and_byte_exact(
    root_and_options: tuple[str, dict[str, Any]], make: Callable[[str, dict[str, Any]], Example]
) -> None:
    spec, expected = make(*root_and_options)
    images = listed(spec)
    assert sorted(image.uri for image in images) == sorted(expected)
    assert not any(image.problem for image in images if isinstance(image, ImageRef))
    assert {type(image) for image in images} == {ImageRef if isinstance(spec, ShardsSource) else ObjectInfo}


@MAKERS
def test_the_order_is_always_the_same(
    root_and_options: tuple[str, dict[str, Any]], make: Callable[[str, dict[str, Any]], Example]
) -> None:
    spec, _ = make(*root_and_options)
    assert listed(spec) == listed(spec)


@pytest.mark.parametrize(
    "spec_of",
    [
        lambda uri, options: PrefixSource(uris=[uri], storage_options=options),
        lambda uri, options: ManifestSource(uri=uri, storage_options=options),
        lambda uri, options: ShardsSource(uris=[uri], storage_options=options),
    ],
)
def test_a_source_that_does_not_exist_is_named(
    root_and_options: tuple[str, dict[str, Any]], spec_of: Callable[[str, dict[str, Any]], SourceSpec]
) -> None:
    root, options = root_and_options
    with pytest.raises(StorageError, match="missing") as caught:
        listed(spec_of(f"{root}/missing", options))
    assert caught.value.code is Code.NOT_FOUND


def test_a_prefix_on_s3_means_the_folder_and_the_object_of_that_name_only(s3: S3Server, bucket: str) -> None:
    options = dict(s3.storage_options)
    names = ["2026", "2026/a.jpg", "2026-old/b.jpg", "2026.jpg"]
    s3.put({f"{bucket}/{name}": b"x" for name in names})
    by_extension = PrefixSource(uris=[f"{bucket}/2026"], storage_options=options)
    assert [image.uri for image in listed(by_extension)] == [f"{bucket}/2026/a.jpg"]
    everything = by_extension.model_copy(update={"include": ["*"]})
    assert [image.uri for image in listed(everything)] == [f"{bucket}/2026", f"{bucket}/2026/a.jpg"]


def test_every_nasty_key_of_s3_is_listed_byte_exact(s3: S3Server, bucket: str, shared_data: Path) -> None:
    entries = json.loads((shared_data / "nasty_keys.json").read_text(encoding="utf-8"))
    keys = [base64.b64decode(entry["key_base64"]) for entry in entries if entry["valid_s3_key"]]
    uris = {f"{bucket}/{key.decode()}" for key in keys}
    s3.put(dict.fromkeys(uris, b"pixels"))
    spec = PrefixSource(uris=[bucket], include=["*"], storage_options=dict(s3.storage_options))
    assert sorted(image.uri for image in listed(spec)) == sorted(uris)

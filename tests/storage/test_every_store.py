"""The contract of `Store`, tested on the local disk, on S3 over HTTP, and on fsspec's memory file system."""

from __future__ import annotations

import base64
import io
import json
import pickle
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage import ABSENT, Store, join_uri, open_store
from batchtag.storage.base import ObjectInfo
from tests.support.s3server import S3Server


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder or bucket for this test."""
    match request.param:
        case "local":
            return str(tmp_path)
        case "s3":
            return str(request.getfixturevalue("bucket"))
        case _:
            return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(root: str, s3: S3Server) -> Store:
    return open_store(root, s3.storage_options if root.startswith("s3:") else None)


def uris(pages: Iterable[list[ObjectInfo]]) -> list[str]:
    return [info.uri for page in pages for info in page]


def code_and_transient(caught: pytest.ExceptionInfo[StorageError]) -> tuple[Code, bool]:
    return caught.value.code, caught.value.transient


def test_a_written_object_is_read_with_the_same_bytes_and_etag(store: Store, root: str) -> None:
    uri = join_uri(root, "a b", "c%20d.jpg")
    etag = store.write(uri, b"one")
    blob, info = store.read(uri), store.stat(uri)
    assert blob.data == b"one"
    assert blob.etag in (etag, "")
    assert (info.uri, info.etag, info.size_bytes) == (uri, etag, 3)
    assert info.last_modified is not None
    assert info.last_modified.utcoffset() is not None


def test_a_write_replaces_the_old_object(store: Store, root: str) -> None:
    uri = join_uri(root, "a.jpg")
    first = store.write(uri, b"one")
    assert store.write(uri, b"three") != first
    assert store.read(uri).data == b"three"


def test_an_empty_object_is_read_as_no_bytes(store: Store, root: str) -> None:
    store.write(join_uri(root, "empty"), b"")
    assert store.read(join_uri(root, "empty"), max_bytes=10).data == b""


def test_an_object_at_the_limit_is_read_and_one_above_is_too_large(store: Store, root: str) -> None:
    uri = join_uri(root, "a.jpg")
    store.write(uri, b"12345")
    assert store.read(uri, max_bytes=5).data == b"12345"
    with pytest.raises(StorageError, match="has 5 bytes, and the job allows 4") as caught:
        store.read(uri, max_bytes=4)
    assert code_and_transient(caught) == (Code.TOO_LARGE, False)


def test_objects_and_folders_that_do_not_exist_are_not_found(store: Store, root: str) -> None:
    uri = join_uri(root, "no", "such.jpg")
    for call in (store.read, store.stat, store.open):
        with pytest.raises(StorageError) as caught:
            call(uri)
        assert code_and_transient(caught) == (Code.NOT_FOUND, False)
        assert uri in caught.value.message
    for listing in (store.walk, store.list_folder):
        with pytest.raises(StorageError) as caught:
            uris(listing(join_uri(root, "no")))
        assert code_and_transient(caught) == (Code.NOT_FOUND, False)


def test_a_range_is_exactly_the_requested_bytes(store: Store, root: str) -> None:
    uri = join_uri(root, "a.tar")
    etag = store.write(uri, b"0123456789")
    assert store.read_range(uri, 3, 4).data == b"3456"
    assert store.read_range(uri, 9, 1, if_etag=etag).data == b"9"
    assert store.read_range(uri, 4, 0).data == b""
    for offset_bytes in (8, 20):
        with pytest.raises(StorageError, match="truncated") as caught:
            store.read_range(uri, offset_bytes, 5)
        assert code_and_transient(caught) == (Code.TRUNCATED, False)


def test_a_conditional_read_of_another_version_fails(store: Store, root: str) -> None:
    uri = join_uri(root, "a.jpg")
    etag = store.write(uri, b"one")
    assert store.read(uri, if_etag=etag).data == b"one"
    store.write(uri, b"three")
    with pytest.raises(ConditionFailed):
        store.read(uri, if_etag=etag)
    with pytest.raises(ConditionFailed):
        store.read_range(uri, 0, 1, if_etag=etag)


def test_a_conditional_write_succeeds_only_on_the_expected_version(store: Store, root: str) -> None:
    uri = join_uri(root, "lease")
    first = store.write_if(uri, b"mine", expected=ABSENT)
    with pytest.raises(ConditionFailed):
        store.write_if(uri, b"other", expected=ABSENT)
    second = store.write_if(uri, b"renewed", expected=first)
    with pytest.raises(ConditionFailed):
        store.write_if(uri, b"outdated", expected=first)
    assert store.read(uri).data == b"renewed"
    store.delete(uri)
    with pytest.raises(ConditionFailed):
        store.write_if(uri, b"mine", expected=second)


def test_deleting_twice_equals_deleting_once(store: Store, root: str) -> None:
    uri = join_uri(root, "a.jpg")
    store.write(uri, b"one")
    store.delete(uri)
    store.delete(uri)
    with pytest.raises(StorageError):
        store.stat(uri)


def test_pyarrow_reads_one_row_group_through_open(store: Store, root: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(100_000))}), sink, row_group_size=10_000)
    uri = join_uri(root, "part.parquet")
    store.write(uri, sink.getvalue())
    with store.open(uri) as file, pq.ParquetFile(file) as part:
        assert part.read_row_group(3).column("n").to_pylist() == list(range(30_000, 40_000))


def test_a_folder_is_listed_in_order_without_its_subfolders(store: Store, root: str) -> None:
    names = ["b.jpg", "B.jpg", "_x.jpg", ".x.jpg", "é.jpg", "sub/c.jpg", "sub.jpg", "a b.jpg"]
    for name in names:
        store.write(join_uri(root, name), b"x")
    expected = [join_uri(root, name) for name in sorted(names, key=str.encode) if "/" not in name]
    assert uris(store.list_folder(root)) == expected
    assert uris(store.list_folder(f"{root}/")) == expected
    assert uris(store.list_folder(join_uri(root, "sub"))) == [join_uri(root, "sub", "c.jpg")]


def test_a_walk_lists_every_object_once_and_always_in_the_same_order(store: Store, root: str) -> None:
    keys = [f"{a}/{b}/{n}.jpg" for a in "xyz" for b in "pq" for n in range(7)] + ["top.jpg", "x.jpg", "x/mid.jpg"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(join_uri(root, key), key.encode()), keys))
    found = uris(store.walk(root))
    assert sorted(found) == sorted(join_uri(root, key) for key in keys)
    assert uris(store.walk(root)) == found
    assert uris(store.walk(join_uri(root, "x/"))) == [uri for uri in found if uri.startswith(join_uri(root, "x/"))]


def test_a_store_survives_pickling(store: Store, root: str) -> None:
    store.write(join_uri(root, "a.jpg"), b"one")
    assert pickle.loads(pickle.dumps(store)).read(join_uri(root, "a.jpg")).data == b"one"


def test_nasty_keys_are_written_listed_and_read_byte_exact(store: Store, root: str, shared_data: Path) -> None:
    entries = json.loads((shared_data / "nasty_keys.json").read_text())
    allowed = "valid_s3_key" if root.startswith("s3:") else "local_fs_ok"
    keys = [base64.b64decode(entry["key_base64"]).decode() for entry in entries if entry[allowed]]
    if allowed == "local_fs_ok":  # a file and a folder cannot have the same name, and a path has no empty parts
        keys = [key for key in keys if "//" not in f"/{key}/" and not any(k.startswith(f"{key}/") for k in keys)]
    assert len(keys) > 30
    for key in keys:
        store.write(f"{root}/{key}", key.encode())
    assert sorted(uris(store.walk(root))) == sorted(f"{root}/{key}" for key in keys)
    assert [store.read(f"{root}/{key}").data for key in keys] == [key.encode() for key in keys]

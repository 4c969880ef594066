"""What only S3 has, on a real server: byte-exact keys, folder markers, long flat folders, processes that fork."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage import open_store
from batchtag.storage.s3 import listing
from batchtag.storage.s3.client import S3Client
from batchtag.storage.s3.listing import split_uri
from batchtag.storage.s3.store import S3Store
from tests.support.s3server import S3Server


def uris(store: S3Store, uri: str) -> list[str]:
    return [info.uri for page in store.walk(uri) for info in page]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b", ("s3://", "b", "")),
        ("s3://b/", ("s3://", "b", "")),
        ("S3A://b//a/", ("S3A://", "b", "/a/")),
        ("s3://b/a?versionId=1#x%2F", ("s3://", "b", "a?versionId=1#x%2F")),
        (
            "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a\n/b",
            ("s3://", "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "a\n/b"),
        ),
    ],
)
def test_a_uri_is_split_without_changing_a_byte(uri: str, parts: tuple[str, str, str]) -> None:
    assert split_uri(uri) == parts


def test_keys_that_s3fs_does_not_distinguish_are_different_objects(s3: S3Server, bucket: str) -> None:
    keys = ["a", "a/", "/a", "//a", "a?versionId=1", "a%20b", "a b", "a+b", "./a", "../a", "a//b"]
    s3.put({f"{bucket}/{key}": key.encode() for key in keys})
    assert sorted(uris(s3.store, bucket)) == sorted(f"{bucket}/{key}" for key in keys)
    assert [s3.store.read(f"{bucket}/{key}").data for key in keys] == [key.encode() for key in keys]


def test_folder_markers_are_not_listed_but_objects_with_such_names_are(s3: S3Server, bucket: str) -> None:
    s3.put({f"{bucket}/album/": b"", f"{bucket}/album/a.jpg": b"x", f"{bucket}/odd/": b"content"})
    assert uris(s3.store, bucket) == [f"{bucket}/album/a.jpg", f"{bucket}/odd/"]


def test_an_empty_bucket_and_an_empty_folder_have_no_objects(s3: S3Server, bucket: str) -> None:
    assert uris(s3.store, bucket) == []
    s3.put({f"{bucket}/album/": b""})
    assert uris(s3.store, f"{bucket}/album") == []


def test_a_folder_does_not_include_folders_and_objects_whose_names_begin_with_its_name(
    s3: S3Server, bucket: str
) -> None:
    s3.put({f"{bucket}/{key}": b"x" for key in ("2026/a.jpg", "2026-old/a.jpg", "2026")})
    assert uris(s3.store, f"{bucket}/2026") == [f"{bucket}/2026/a.jpg"]


def test_a_bucket_that_does_not_exist_is_named(s3: S3Server) -> None:
    for call in (s3.store.read, s3.store.open, lambda uri: uris(s3.store, uri), lambda uri: s3.store.write(uri, b"")):
        with pytest.raises(StorageError) as caught:
            call("s3://no-such-bucket/a.jpg")
        assert caught.value.code is Code.NOT_FOUND
    assert "no bucket 'no-such-bucket'" in caught.value.message


@pytest.mark.parametrize("split_pages", [1, 2])
def test_a_long_flat_folder_is_listed_in_pieces_without_a_missing_or_repeated_key(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, split_pages: int
) -> None:
    monkeypatch.setattr(listing, "PAGE_KEYS", 10)
    monkeypatch.setattr(listing, "SPLIT_PAGES", split_pages)
    keys = [f"flat/IMG_{n:05}.jpg" for n in range(0, 3000, 13)]
    keys += ["flat/IMG_00/deep.jpg", "flat/IMG_009/deeper/x.jpg", "flat/IMG_", "flat/IMG_é.jpg", "flat/\U0010ffff.jpg"]
    keys += ["flat/\U0010ffff\U0010ffff.jpg", "flat/\U0001f4a9.jpg", "flat/~.jpg"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.store.write(f"{bucket}/{key}", b"x"), keys))
    found = uris(s3.store, f"{bucket}/flat")
    assert sorted(found) == sorted(f"{bucket}/{key}" for key in keys)
    assert found != sorted(found), "keys out of order show that the folder was split"
    assert uris(s3.store, f"{bucket}/flat") == found


def test_a_folder_of_many_pages_lists_the_objects_between_its_folders(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_KEYS", 3)
    keys = sorted([f"{n}.jpg" for n in range(9)] + [f"{n}/deep.jpg" for n in range(9)])
    s3.put({f"{bucket}/{key}": b"x" for key in keys})
    found = [info.uri for page in s3.store.list_folder(bucket) for info in page]
    assert found == [f"{bucket}/{key}" for key in keys if "/" not in key]


def test_the_order_of_a_walk_does_not_depend_on_the_page_size_of_the_service(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_KEYS", 20)
    monkeypatch.setattr(listing, "SPLIT_PAGES", 2)
    s3.put({f"{bucket}/{folder}/{n:03}.jpg": b"x" for folder in "ab" for n in range(130)})
    whole = uris(s3.store, bucket)
    request = S3Client.request

    def request_small_pages(client: S3Client, method: str, **arguments: object) -> object:
        if method == "list_objects_v2":
            arguments["MaxKeys"] = min(7, int(str(arguments["MaxKeys"])))
        return request(client, method, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Client, "request", request_small_pages)
    assert uris(s3.store, bucket) == whole


def test_credentials_and_endpoint_come_from_the_environment(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put({f"{bucket}/a.jpg": b"x"})
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    assert S3Store({}).read(f"{bucket}/a.jpg").data == b"x"


def test_a_missing_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with pytest.raises(StorageError, match="no-such-profile") as caught:
        S3Store({"profile": "no-such-profile"}).read("s3://b/a.jpg")
    assert not caught.value.transient


def test_missing_credentials_are_denied_and_the_message_says_where_to_set_them(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID") as caught:
        S3Store({"client_kwargs": {"endpoint_url": s3.endpoint_url}}).read("s3://b/a.jpg")
    assert caught.value.code is Code.DENIED


def test_a_process_has_one_store_for_the_same_options(s3: S3Server) -> None:
    options = dict(s3.storage_options)
    assert open_store("s3://b/x", options) is open_store("s3a://c", dict(reversed(options.items())))
    assert open_store("s3://b", {**options, "anon": True}) is not open_store("s3://b", options)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_its_own_connections(s3: S3Server, bucket: str) -> None:
    s3.put({f"{bucket}/a.jpg": b"x"})
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    options = dict(s3.storage_options)
    child = fork.Process(target=lambda: answers.put(open_store(bucket, options).read(f"{bucket}/a.jpg").data))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert answers.get() == b"x"

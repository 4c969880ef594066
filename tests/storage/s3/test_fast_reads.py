"""The quick way to read S3 gives what the thorough one gives, or leaves the question to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from batchtag.errors import ConditionFailed, StorageError
from batchtag.storage.s3 import fast_reads
from batchtag.storage.s3.client import S3Client
from batchtag.storage.s3.fast_reads import QuickReads, Way, is_ordinary
from batchtag.storage.s3.store import S3Store
from tests.support.s3server import S3Server

KEY = "shelf 3/photo-1.jpg"


@pytest.fixture
def photo(s3: S3Server, bucket: str) -> str:
    uri = f"{bucket}/{KEY}"
    s3.put({uri: b"0123456789"})
    return uri


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that the thorough client is asked for."""
    asked: list[str] = []
    call = S3Client.call

    def counted(self: S3Client, method: str, **arguments: Any) -> Any:
        asked.append(method)
        return call(self, method, **arguments)

    monkeypatch.setattr(S3Client, "call", counted)
    return asked


def test_both_ways_give_the_same_bytes_etag_and_time(s3: S3Server, photo: str, calls: list[str]) -> None:
    slow = S3Store(s3.storage_options, reads_quickly=False)
    expected = [slow.read(photo), slow.read_range(photo, 2, 5)]
    calls.clear()
    quick = S3Store(s3.storage_options)
    assert [quick.read(photo), quick.read_range(photo, 2, 5, if_etag=expected[0].etag)] == expected
    assert calls == []


def test_what_is_no_plain_success_is_explained_by_the_thorough_client(
    s3: S3Server, photo: str, bucket: str, calls: list[str]
) -> None:
    store = S3Store(s3.storage_options)
    with pytest.raises(StorageError, match="no such object"):
        store.read(f"{bucket}/absent.jpg")
    with pytest.raises(StorageError, match="10 bytes"):
        store.read(photo, max_bytes=9)
    with pytest.raises(ConditionFailed):
        store.read_range(photo, 0, 5, if_etag="another")
    assert calls == ["get_object"] * 3
    assert store.read(photo).data == b"0123456789"
    assert len(calls) == 3


def test_a_bucket_that_only_the_thorough_client_can_read_is_left_to_it_after_three_objects(
    s3: S3Server, photo: str, bucket: str, calls: list[str]
) -> None:
    asked = 0

    def nowhere(name: str) -> Way:
        def ask() -> tuple[str, str, None]:
            nonlocal asked
            asked += 1
            return "a", "b", None

        return Way(url_of_x=f"http://127.0.0.1:9/{name}/x", region="eu-central-1", signature="s3v4", ask=ask)

    store = S3Store(s3.storage_options)
    store._quick = QuickReads(nowhere)
    for _ in range(5):
        assert store.read(photo).data == b"0123456789"
    assert calls == ["get_object"] * 5
    assert store._quick._store(bucket.removeprefix("s3://")) is None


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", ".", "a/../b", "a?versionId=1", "a%20b", "a#b", "é", "a\nb", ""])
def test_keys_that_may_be_spelt_otherwise_are_left_to_the_thorough_client(key: str) -> None:
    assert not is_ordinary(key)


@pytest.mark.parametrize(
    "more",
    [
        {"requester_pays": True},
        {"s3_additional_kwargs": {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}},
    ],
    ids=["requester pays", "own key"],
)
def test_requests_that_need_more_than_a_signature_are_left_to_the_thorough_client(
    s3: S3Server, more: Mapping[str, Any]
) -> None:
    assert S3Client(s3.storage_options).way_to("photos") is not None
    assert S3Client({**s3.storage_options, **more}).way_to("photos") is None


def test_the_bucket_may_be_in_the_host_or_in_the_path_and_nowhere_else() -> None:
    def way(url: str) -> Way:
        return Way(url_of_x=url, region="eu-west-1", signature="s3v4", ask=lambda: ("a", "b", None))

    fast_reads._opened("photos", way("https://photos.s3.eu-west-1.amazonaws.com/x?X-Amz-Signature=1"))
    fast_reads._opened("photos", way("https://minio.acme.internal/photos/x"))
    with pytest.raises(ValueError, match="no address of bucket photos"):
        fast_reads._opened("photos", way("https://mine-123.s3-accesspoint.eu-west-1.amazonaws.com/x"))

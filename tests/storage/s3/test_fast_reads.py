"""Fast reads with obstore return what botocore's client returns, or leave the read to that client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from batchtag.errors import ConditionFailed, StorageError
from batchtag.storage.s3.bucket_access import BucketAccess
from batchtag.storage.s3.client import S3Client
from batchtag.storage.s3.fast_reads import FastReader, is_ordinary_key, open_obstore
from batchtag.storage.s3.store import S3Store
from tests.support.s3server import S3Server

KEY = "shelf 3/photo-1.jpg"


def access_at(url_of_x: str) -> BucketAccess:
    return BucketAccess(
        url_of_x=url_of_x, region="eu-west-1", signature="s3v4", get_credentials=lambda: ("a", "b", None)
    )


@pytest.fixture
def photo(s3: S3Server, bucket: str) -> str:
    uri = f"{bucket}/{KEY}"
    s3.put({uri: b"0123456789"})
    return uri


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of botocore's client that were called."""
    methods: list[str] = []
    request = S3Client.request

    def record(self: S3Client, method: str, **arguments: Any) -> Any:
        methods.append(method)
        return request(self, method, **arguments)

    monkeypatch.setattr(S3Client, "request", record)
    return methods


def test_both_clients_return_the_same_bytes_etag_and_time(s3: S3Server, photo: str, calls: list[str]) -> None:
    botocore = S3Store(s3.storage_options, use_fast_reads=False)
    expected = [botocore.read(photo), botocore.read_range(photo, 2, 5)]
    calls.clear()
    fast = S3Store(s3.storage_options)
    assert [fast.read(photo), fast.read_range(photo, 2, 5, if_etag=expected[0].etag)] == expected
    assert calls == []


def test_a_read_that_fails_is_explained_by_botocores_client(
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


def test_a_bucket_that_only_botocores_client_can_read_is_left_to_it_after_three_objects(
    s3: S3Server, photo: str, bucket: str, calls: list[str]
) -> None:
    def wrong_access(name: str) -> BucketAccess:
        return access_at(f"http://127.0.0.1:9/{name}/x")

    store = S3Store(s3.storage_options)
    store._fast_reader = FastReader(wrong_access)
    for _ in range(5):
        assert store.read(photo).data == b"0123456789"
    assert calls == ["get_object"] * 5
    assert store._fast_reader._obstore_of(bucket.removeprefix("s3://")) is None


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", ".", "a/../b", "a?versionId=1", "a%20b", "a#b", "é", "a\nb", ""])
def test_keys_that_obstore_may_change_are_left_to_botocores_client(key: str) -> None:
    assert not is_ordinary_key(key)


@pytest.mark.parametrize(
    "more",
    [
        {"requester_pays": True},
        {"s3_additional_kwargs": {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}},
    ],
    ids=["requester pays", "customer key"],
)
def test_requests_that_need_more_than_a_signature_are_left_to_botocores_client(
    s3: S3Server, more: Mapping[str, Any]
) -> None:
    assert S3Client(s3.storage_options).bucket_access("photos") is not None
    assert S3Client({**s3.storage_options, **more}).bucket_access("photos") is None


def test_the_bucket_must_be_in_the_host_or_in_the_path() -> None:
    open_obstore("photos", access_at("https://photos.s3.eu-west-1.amazonaws.com/x?X-Amz-Signature=1"))
    open_obstore("photos", access_at("https://minio.acme.internal/photos/x"))
    with pytest.raises(ValueError, match="not an address of bucket photos"):
        open_obstore("photos", access_at("https://mine-123.s3-accesspoint.eu-west-1.amazonaws.com/x"))

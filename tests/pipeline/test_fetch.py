"""The bytes of one image: limits, retries, objects that changed, members of shards."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from batchtag.errors import Code, StorageError
from batchtag.pipeline.fetch import fetch
from batchtag.storage import Store, open_store
from batchtag.storage.base import Blob
from batchtag.storage.local import LocalStore
from batchtag.storage.retry import RetryPolicy
from batchtag.storage.s3.store import S3Store
from batchtag.types import ImageRef
from tests.storage.faulty_s3 import BODY, FaultyS3, reset_connection, send_error, send_object

WITHOUT_PAUSES = RetryPolicy(base_s=0.0)
LOCAL = LocalStore()


def indexed(uri: str, store: Store, *, position: int = 0) -> ImageRef:
    """The image as it is in an index."""
    info = store.stat(uri)
    return ImageRef(
        uri=uri,
        etag=info.etag,
        size_bytes=info.size_bytes,
        last_modified=info.last_modified,
        position=position,
    )


def failure(ref: ImageRef, store: Store, *, max_bytes: int = 10**6) -> StorageError:
    with pytest.raises(StorageError) as caught:
        fetch(ref, store=store, max_bytes=max_bytes, policy=WITHOUT_PAUSES)
    error = caught.value
    assert pickle.loads(pickle.dumps(error)).code is error.code
    return error


@pytest.mark.parametrize("use_fast_reads", [True, False])
def test_an_image_is_one_request(use_fast_reads: bool) -> None:
    with FaultyS3().running() as server:
        ref = ImageRef(uri="s3://photos/a.jpg", size_bytes=len(BODY), position=0)
        blob = fetch(ref, store=S3Store(server.options(), use_fast_reads=use_fast_reads), max_bytes=10**6)
        assert (blob.data, blob.etag, blob.attempts) == (BODY, "abc", 1)
        assert server.requests == ["GET /photos/a.jpg HTTP/1.1"]


@pytest.mark.parametrize("use_fast_reads", [True, False])
def test_an_object_that_the_listing_shows_to_be_empty_or_too_large_is_not_requested(use_fast_reads: bool) -> None:
    with FaultyS3().running() as server:
        store = S3Store(server.options(), use_fast_reads=use_fast_reads)
        huge = failure(ImageRef(uri="s3://photos/a.jpg", size_bytes=10**7, position=0), store)
        empty = failure(ImageRef(uri="s3://photos/b.jpg", size_bytes=0, position=1), store)
        assert server.requests == []
    assert (huge.code, empty.code) == (Code.TOO_LARGE, Code.EMPTY)
    assert "has 10,000,000 bytes, and the job allows 1,000,000" in huge.message


def test_an_image_of_unknown_size_is_judged_by_the_bytes_that_were_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 11)
    (tmp_path / "b.jpg").write_bytes(b"")
    assert failure(ImageRef(uri=f"{tmp_path}/a.jpg", position=0), LOCAL, max_bytes=10).code is Code.TOO_LARGE
    assert failure(ImageRef(uri=f"{tmp_path}/b.jpg", position=1), LOCAL).code is Code.EMPTY


def test_a_fetch_that_succeeds_after_transient_errors_counts_its_attempts() -> None:
    with FaultyS3().running() as server:
        server.script = [
            send_error(503, "SlowDown"),
            send_object(BODY[:9], promised_bytes=len(BODY)),
            reset_connection,
            reset_connection,
        ]
        ref = ImageRef(uri="s3://photos/a.jpg", position=0)
        blob = fetch(ref, store=S3Store(server.options(), use_fast_reads=False), max_bytes=10**6, policy=WITHOUT_PAUSES)
    assert (blob.data, blob.attempts) == (BODY, 4)


def test_a_fast_read_succeeds_after_transient_errors_too() -> None:
    with FaultyS3().running() as server:
        server.script = [
            send_error(503, "SlowDown"),
            send_object(BODY[:9], promised_bytes=len(BODY)),
            reset_connection,
            reset_connection,
        ]
        ref = ImageRef(uri="s3://photos/a.jpg", position=0)
        blob = fetch(ref, store=S3Store(server.options()), max_bytes=10**6, policy=WITHOUT_PAUSES)
    assert (blob.data, blob.last_modified) == (BODY, None)


def test_a_permanent_error_is_not_tried_again_and_a_transient_one_six_times() -> None:
    with FaultyS3().running() as server:
        store = S3Store(server.options(), use_fast_reads=False)
        server.script = [send_error(403, "AccessDenied"), *[send_error(503, "SlowDown")] * 6]
        denied = failure(ImageRef(uri="s3://photos/a.jpg", position=0), store)
        throttled = failure(ImageRef(uri="s3://photos/a.jpg", position=0), store)
    assert (denied.code, denied.attempts) == (Code.DENIED, 1)
    assert (throttled.code, throttled.attempts) == (Code.THROTTLED, 6)


def test_an_image_that_changed_since_it_was_indexed_is_read_as_it_is_now(tmp_path: Path) -> None:
    uri = f"{tmp_path}/a.jpg"
    LOCAL.write(uri, b"before")
    ref = indexed(uri, LOCAL)
    etag = LOCAL.write(uri, b"and after")
    blob = fetch(ref, store=LOCAL, max_bytes=100)
    assert (blob.data, blob.etag) == (b"and after", etag)


def test_an_image_that_keeps_changing_fails_as_changed() -> None:
    class ChangingStore(LocalStore):
        def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
            raise StorageError(f"{uri}: changed while it was read", code=Code.CHANGED, transient=True)

    error = failure(ImageRef(uri="/a.jpg", position=0), ChangingStore())
    assert (error.code, error.attempts) == (Code.CHANGED, 6)


def test_if_a_store_gives_no_etag_with_the_bytes_the_listed_one_is_kept_while_the_size_is_the_same() -> None:
    uri = f"memory://{uuid4().hex}/a.jpg"
    store = open_store(uri)
    store.write(uri, b"before")
    ref = indexed(uri, store)
    assert fetch(ref, store=store, max_bytes=100) == Blob(
        data=b"before", etag=ref.etag, last_modified=ref.last_modified
    )
    etag = store.write(uri, b"and after")
    blob = fetch(ref, store=store, max_bytes=100)
    assert (blob.data, blob.etag) == (b"and after", etag)


def test_a_member_of_a_shard_is_read_only_from_the_version_that_was_indexed(tmp_path: Path) -> None:
    shard = f"{tmp_path}/x.tar"
    etag = LOCAL.write(shard, b"head" + b"image" + b"tail")
    ref = ImageRef(uri=f"{shard}#a.jpg", shard=shard, offset_bytes=4, size_bytes=5, etag=etag, position=0)
    blob = fetch(ref, store=LOCAL, max_bytes=100)
    assert (blob.data, blob.etag) == (b"image", etag)
    assert failure(replace(ref, size_bytes=70), LOCAL).code is Code.TRUNCATED
    LOCAL.write(shard, b"another tar, and a longer one")
    error = failure(ref, LOCAL)
    assert (error.code, error.attempts) == (Code.CHANGED, 1)
    assert "changed since it was indexed; choose another --out" in error.message

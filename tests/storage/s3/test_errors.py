"""What S3 services do on a bad day, over real HTTP through s3fs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage.retry import RetryPolicy, with_retries
from batchtag.storage.s3.store import S3Store
from tests.storage.faulty import (
    BODY,
    Answer,
    FaultyS3,
    gibberish,
    in_chunks,
    refusal,
    reset,
    silence,
    the_object,
)

URI = "s3://photos/a.jpg"


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with FaultyS3().running() as server:
        yield server


def thorough(options: dict[str, Any]) -> S3Store:
    """A store that asks botocore's client first, as it does for all that is no plain success."""
    return S3Store(options, reads_quickly=False)


def _read(faulty: FaultyS3, **config: object) -> StorageError:
    with pytest.raises(StorageError) as caught:
        thorough(faulty.options(**config)).read(URI)
    assert len(faulty.requests) == 1, "every call is one attempt"
    return caught.value


def test_a_service_that_is_busy_twice_gives_the_object_at_the_third_attempt(faulty: FaultyS3) -> None:
    faulty.script = [refusal(503, "SlowDown"), refusal(503, "ServiceUnavailable")]
    store, waits = thorough(faulty.options()), list[float]()
    blob, attempts = with_retries(lambda: store.read(URI), sleep=waits.append, random=lambda: 1.0)
    assert (blob.data, blob.etag, attempts) == (BODY, "abc", 3)
    assert waits == [0.2, 0.4]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(503, "SlowDown"), Code.THROTTLED),
        (refusal(429, "TooManyRequests"), Code.THROTTLED),
        (refusal(400, "RequestLimitExceeded"), Code.THROTTLED),
        (refusal(400, "RequestTimeout"), Code.TIMEOUT),
        (refusal(500, "InternalError"), Code.UNREACHABLE),
        (refusal(502, "BadGateway"), Code.UNREACHABLE),
        (the_object(BODY[:500], promised_bytes=len(BODY)), Code.UNREACHABLE),
    ],
)
def test_trouble_that_passes_is_transient(faulty: FaultyS3, answer: Answer, code: Code) -> None:
    faulty.script = [answer]
    error = _read(faulty)
    assert (error.code, error.transient) == (code, True)
    assert error.message.startswith(f"{URI}: ")


def test_a_connection_that_is_reset_is_transient(faulty: FaultyS3) -> None:
    faulty.script = [reset, reset]  # aiohttp itself asks once more, as it must for connections kept alive (RFC 9112)
    with pytest.raises(StorageError) as caught:
        thorough(faulty.options()).read(URI)
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, True)
    assert len(faulty.requests) == 2


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (refusal(403, "AccessDenied"), Code.DENIED, "access denied (AccessDenied: because)"),
        (refusal(403, "SignatureDoesNotMatch"), Code.DENIED, "check the credentials"),
        (refusal(400, "ExpiredToken"), Code.DENIED, "ExpiredToken"),
        (refusal(403, "InvalidObjectState"), Code.DENIED, "restore it first"),
        (refusal(404, "NoSuchKey"), Code.NOT_FOUND, "no such object"),
        (refusal(404, "NoSuchBucket"), Code.NOT_FOUND, "no bucket 'photos'"),
        (refusal(400, "AuthorizationHeaderMalformed"), Code.UNREACHABLE, "another region"),
        (refusal(400, "InvalidRequest"), Code.UNREACHABLE, "HTTP 400 (InvalidRequest: because)"),
    ],
)
def test_trouble_that_stays_is_not_transient(faulty: FaultyS3, answer: Answer, code: Code, words: str) -> None:
    faulty.script = [answer]
    error = _read(faulty)
    assert (error.code, error.transient) == (code, False)
    assert words in error.message


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503, "SlowDown"),
        refusal(500, "InternalError"),
        refusal(403, "AccessDenied"),
        refusal(404, "NoSuchKey"),
        the_object(BODY[:500], promised_bytes=len(BODY)),
        reset,
        silence,
    ],
    ids=["throttled", "broken", "denied", "absent", "cut", "reset", "silent"],
)
def test_a_store_that_reads_quickly_gives_the_same_error_after_one_request_more(
    faulty: FaultyS3, answer: Answer
) -> None:
    errors, requests = [], []
    for store in (thorough(faulty.options(read_timeout=0.1)), S3Store(faulty.options(read_timeout=0.1))):
        faulty.script = [answer] * 4
        faulty.requests.clear()
        with pytest.raises(StorageError) as caught:
            store.read(URI)
        errors.append((caught.value.code, caught.value.transient, caught.value.message))
        requests.append(len(faulty.requests))
    assert errors[0] == errors[1]
    assert requests[1] == requests[0] + 1


def test_a_service_that_says_nothing_is_a_timeout(faulty: FaultyS3) -> None:
    faulty.script = [silence]
    error = _read(faulty, read_timeout=0.1)
    assert (error.code, error.transient) == (Code.TIMEOUT, True)


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with FaultyS3().running() as gone:
        options = gone.options()
    with pytest.raises(StorageError) as caught:
        thorough(options).read(URI)
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, True)


def test_an_object_too_large_is_not_read(faulty: FaultyS3) -> None:
    store = thorough(faulty.options())
    faulty.script = [the_object(b"", promised_bytes=10**12), in_chunks(BODY)]
    for _ in range(2):
        with pytest.raises(StorageError, match="and the job allows 5,000") as caught:
            store.read(URI, max_bytes=5000)
        assert caught.value.code is Code.TOO_LARGE


def test_a_body_of_unknown_length_is_read_whole(faulty: FaultyS3) -> None:
    faulty.script = [in_chunks(BODY), in_chunks(BODY)]
    store = thorough(faulty.options())
    assert store.read(URI, max_bytes=len(BODY)).data == BODY
    assert store.read(URI).data == BODY


def test_a_key_travels_byte_exact(faulty: FaultyS3) -> None:  # moto itself does not take a newline
    assert thorough(faulty.options()).read("s3://photos//a\n../b?c#d%20/").data == BODY
    assert faulty.requests == ["GET /photos//a%0A../b%3Fc%23d%2520/ HTTP/1.1"]


def test_a_page_of_a_listing_is_tried_again_by_itself(faulty: FaultyS3) -> None:
    page = b"""<ListBucketResult><Contents><Key>a.jpg</Key><Size>3</Size><ETag>"e"</ETag>
        <LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>"""
    faulty.script = [refusal(503, "SlowDown"), gibberish, reset, the_object(page)]
    store = S3Store(faulty.options(), list_policy=RetryPolicy(base_s=0.0))
    assert [one.uri for found in store.walk("s3://photos") for one in found] == [URI]
    assert len(faulty.requests) == 4


def test_no_secret_leaves_in_a_message(faulty: FaultyS3) -> None:
    options = faulty.options()
    faulty.script = [refusal(403, f"{options['key']} {options['secret']}")]
    error = _read(faulty)
    assert "access denied (*** ***: because)" in error.message


def test_options_that_s3fs_does_not_take_are_named() -> None:
    with pytest.raises(StorageError, match="storage_options are not what s3fs takes"):
        S3Store({"no_such_option": 1}).read(URI)

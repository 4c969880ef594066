"""Errors of S3 services, over real HTTP and through s3fs: their code, whether they are transient, their message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage.retry import RetryPolicy, with_retries
from batchtag.storage.s3.store import S3Store
from tests.storage.faulty_s3 import (
    BODY,
    FaultyS3,
    Response,
    reset_connection,
    send_chunks,
    send_error,
    send_half_document,
    send_nothing,
    send_object,
)

URI = "s3://photos/a.jpg"
SHORT_TIMEOUT_S = 0.5
"""Read timeout for a service that does not respond. With 0.1 s, these tests failed at times on a busy machine."""


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with FaultyS3().running() as server:
        yield server


def botocore_store(options: dict[str, Any]) -> S3Store:
    """A store without fast reads: it uses botocore's client at once, as every store does after a failure."""
    return S3Store(options, use_fast_reads=False)


def read_error(faulty: FaultyS3, **config: object) -> StorageError:
    with pytest.raises(StorageError) as caught:
        botocore_store(faulty.options(**config)).read(URI)
    assert len(faulty.requests) == 1, "every call is one attempt"
    return caught.value


def test_an_object_of_a_service_that_is_busy_twice_is_read_at_the_third_attempt(faulty: FaultyS3) -> None:
    faulty.script = [send_error(503, "SlowDown"), send_error(503, "ServiceUnavailable")]
    store, waits = botocore_store(faulty.options()), list[float]()
    blob, attempts = with_retries(lambda: store.read(URI), sleep=waits.append, random=lambda: 1.0)
    assert (blob.data, blob.etag, attempts) == (BODY, "abc", 3)
    assert waits == [0.2, 0.4]


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (send_error(503, "SlowDown"), Code.THROTTLED),
        (send_error(429, "TooManyRequests"), Code.THROTTLED),
        (send_error(400, "RequestLimitExceeded"), Code.THROTTLED),
        (send_error(400, "RequestTimeout"), Code.TIMEOUT),
        (send_error(500, "InternalError"), Code.UNREACHABLE),
        (send_error(502, "BadGateway"), Code.UNREACHABLE),
        (send_object(BODY[:500], promised_bytes=len(BODY)), Code.UNREACHABLE),
    ],
)
def test_an_error_that_may_pass_is_transient(faulty: FaultyS3, response: Response, code: Code) -> None:
    faulty.script = [response]
    error = read_error(faulty)
    assert (error.code, error.transient) == (code, True)
    assert error.message.startswith(f"{URI}: ")


def test_a_connection_that_is_reset_is_transient(faulty: FaultyS3) -> None:
    faulty.script = [reset_connection] * 2  # aiohttp retries once, as it must for kept-alive connections (RFC 9112)
    with pytest.raises(StorageError) as caught:
        botocore_store(faulty.options()).read(URI)
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, True)
    assert len(faulty.requests) == 2


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (send_error(403, "AccessDenied"), Code.DENIED, "access denied (AccessDenied: because)"),
        (send_error(403, "SignatureDoesNotMatch"), Code.DENIED, "check the credentials"),
        (send_error(400, "ExpiredToken"), Code.DENIED, "ExpiredToken"),
        (send_error(403, "InvalidObjectState"), Code.DENIED, "restore it first"),
        (send_error(404, "NoSuchKey"), Code.NOT_FOUND, "no such object"),
        (send_error(404, "NoSuchBucket"), Code.NOT_FOUND, "no bucket 'photos'"),
        (send_error(400, "AuthorizationHeaderMalformed"), Code.UNREACHABLE, "another region"),
        (send_error(400, "InvalidRequest"), Code.UNREACHABLE, "HTTP 400 (InvalidRequest: because)"),
    ],
)
def test_an_error_that_stays_is_not_transient(faulty: FaultyS3, response: Response, code: Code, words: str) -> None:
    faulty.script = [response]
    error = read_error(faulty)
    assert (error.code, error.transient) == (code, False)
    assert words in error.message


@pytest.mark.parametrize(
    "response",
    [
        send_error(503, "SlowDown"),
        send_error(500, "InternalError"),
        send_error(403, "AccessDenied"),
        send_error(404, "NoSuchKey"),
        send_object(BODY[:500], promised_bytes=len(BODY)),
        reset_connection,
        send_nothing,
    ],
    ids=["throttled", "broken", "denied", "absent", "truncated", "reset", "silent"],
)
def test_a_store_with_fast_reads_raises_the_same_error_after_one_more_request(
    faulty: FaultyS3, response: Response
) -> None:
    errors, requests = [], []
    options = faulty.options(read_timeout=SHORT_TIMEOUT_S if response is send_nothing else 30)
    for store in (botocore_store(options), S3Store(options)):
        faulty.script = [response] * 4
        faulty.requests.clear()
        with pytest.raises(StorageError) as caught:
            store.read(URI)
        errors.append((caught.value.code, caught.value.transient, caught.value.message))
        requests.append(len(faulty.requests))
    assert errors[0] == errors[1]
    assert requests[1] == requests[0] + 1


def test_a_service_that_does_not_respond_is_a_timeout(faulty: FaultyS3) -> None:
    faulty.script = [send_nothing]
    error = read_error(faulty, read_timeout=SHORT_TIMEOUT_S)
    assert (error.code, error.transient) == (Code.TIMEOUT, True)


def test_a_service_that_does_not_run_is_unreachable() -> None:
    with FaultyS3().running() as stopped:
        options = stopped.options()
    with pytest.raises(StorageError) as caught:
        botocore_store(options).read(URI)
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, True)


def test_an_object_that_is_too_large_is_not_read(faulty: FaultyS3) -> None:
    store = botocore_store(faulty.options())
    faulty.script = [send_object(b"", promised_bytes=10**12), send_chunks(BODY)]
    for _ in range(2):
        with pytest.raises(StorageError, match="and the job allows 5,000") as caught:
            store.read(URI, max_bytes=5000)
        assert caught.value.code is Code.TOO_LARGE


def test_a_body_of_unknown_length_is_read_whole(faulty: FaultyS3) -> None:
    faulty.script = [send_chunks(BODY), send_chunks(BODY)]
    store = botocore_store(faulty.options())
    assert store.read(URI, max_bytes=len(BODY)).data == BODY
    assert store.read(URI).data == BODY


def test_a_key_is_requested_byte_exact(faulty: FaultyS3) -> None:  # moto does not accept a newline
    assert botocore_store(faulty.options()).read("s3://photos//a\n../b?c#d%20/").data == BODY
    assert faulty.requests == ["GET /photos//a%0A../b%3Fc%23d%2520/ HTTP/1.1"]


def test_each_page_of_a_listing_is_retried_by_itself(faulty: FaultyS3) -> None:
    document = b"""<ListBucketResult><Contents><Key>a.jpg</Key><Size>3</Size><ETag>"e"</ETag>
        <LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>"""
    faulty.script = [send_error(503, "SlowDown"), send_half_document, reset_connection, send_object(document)]
    store = S3Store(faulty.options(), list_policy=RetryPolicy(base_s=0.0))
    assert [info.uri for page in store.walk("s3://photos") for info in page] == [URI]
    assert len(faulty.requests) == 4


def test_a_message_contains_no_secret(faulty: FaultyS3) -> None:
    options = faulty.options()
    faulty.script = [send_error(403, f"{options['key']} {options['secret']}")]
    error = read_error(faulty)
    assert "access denied (*** ***: because)" in error.message


def test_options_that_s3fs_does_not_accept_are_named() -> None:
    with pytest.raises(StorageError, match=r"s3fs does not accept storage_options: .*no_such_option"):
        S3Store({"no_such_option": 1}).read(URI)

"""A server of the S3 protocol for tests: moto over HTTP, on a free port of localhost, stopped with the test session."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from batchtag.storage.s3.client import S3Client, return_response
from batchtag.storage.s3.store import S3Store

REGION = "eu-central-1"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """The server's address, and the storage options with which a job uses it."""

    endpoint_url: str
    storage_options: Mapping[str, Any]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def environment(self) -> dict[str, str]:
        """The same access as environment variables of AWS's tools."""
        return {
            "AWS_ACCESS_KEY_ID": self.storage_options["key"],
            "AWS_SECRET_ACCESS_KEY": self.storage_options["secret"],
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
        }

    @property
    def store(self) -> S3Store:
        return S3Store.shared(self.storage_options)

    def new_bucket(self) -> str:
        """Create an empty bucket and return its URI, without a trailing slash."""
        bucket = f"photos-{next(self._numbers)}"
        S3Client(self.storage_options).request(
            "create_bucket",
            uri=f"s3://{bucket}",
            bucket=bucket,
            read_response=return_response,
            CreateBucketConfiguration={"LocationConstraint": REGION},
        )
        return f"s3://{bucket}"

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects; the keys are their URIs."""
        for uri, data in objects.items():
            self.store.write(uri, data)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """The server. A test that writes needs its own bucket: `new_bucket`, or the fixture `bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # otherwise it logs a line per request
    server.start()
    host, port = server.get_host_and_port()
    endpoint_url = f"http://{host}:{port}"
    yield S3Server(
        endpoint_url=endpoint_url,
        storage_options={
            "key": "AKIAOFTHETESTSUITE00",
            "secret": "the-secret-of-the-test-suite",
            "client_kwargs": {"endpoint_url": endpoint_url, "region_name": REGION},
        },
    )
    server.stop()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The URI of a new bucket for this test, `s3://...` without a trailing slash."""
    return s3.new_bucket()

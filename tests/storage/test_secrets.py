"""Secrets appear neither in messages nor in records, and URIs with credentials are refused."""

from __future__ import annotations

import pytest

from batchtag.errors import Code, ConditionFailed, StorageError, UsageError
from batchtag.storage.secrets import check_no_credentials, scrub, scrub_error, secret_strings

OPTIONS = {
    "key": "AKIA123",
    "secret": "s3cr/et+",
    "anon": False,
    "client_kwargs": {"endpoint_url": "http://minio:9000", "aws_session_token": "t0ken"},
}


def test_every_string_of_the_options_is_scrubbed_except_the_endpoint() -> None:
    text = "AKIA123 with s3cr/et+ and t0ken at http://minio:9000"
    assert scrub(text, OPTIONS) == "*** with *** and *** at http://minio:9000"


def test_strings_in_a_list_are_secrets() -> None:
    options = {"headers": ["Authorization: Bearer abc", {"x": ("deep",)}], "region": "eu", "ports": [1, 2]}
    assert list(secret_strings(options)) == ["Authorization: Bearer abc", "deep"]
    assert scrub("sent Authorization: Bearer abc to eu", options) == "sent *** to eu"


def test_secrets_of_the_environment_are_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from/the/environment")
    assert scrub("signed with from/the/environment", {}) == "signed with ***"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/a.jpg: no", "https://***@host/a.jpg: no"),
        ("https://h/a.jpg?X-Amz-Signature=abc&x=1", "https://h/a.jpg?X-Amz-Signature=***&x=1"),
        ("https://h/a.jpg?sv=1&sig=a%2Bb: no", "https://h/a.jpg?sv=1&sig=***"),
        ("https://h/a.jpg?token=abc", "https://h/a.jpg?token=***"),
        ("abfss://photos@account.dfs.core.windows.net/a.jpg", "abfss://photos@account.dfs.core.windows.net/a.jpg"),
        ("s3://photos/me@home/design=1.jpg", "s3://photos/me@home/design=1.jpg"),
    ],
)
def test_only_the_secrets_of_a_url_are_scrubbed(text: str, clean: str) -> None:
    assert scrub(text, {}).removesuffix(" no").removesuffix(":") == clean.removesuffix(" no").removesuffix(":")


def test_a_short_value_is_not_a_secret() -> None:
    assert scrub("a.jpg has no bytes", {"key": "no", "secret": ""}) == "a.jpg has no bytes"


def test_a_scrubbed_error_keeps_its_class_and_its_attributes() -> None:
    clean = scrub_error(ConditionFailed("AKIA123 changed", attempts=3), OPTIONS)
    assert (type(clean), str(clean), clean.message) == (ConditionFailed, "*** changed", "*** changed")
    assert (clean.attempts, clean.code) == (3, Code.CHANGED)
    assert isinstance(clean, StorageError)


def test_a_uri_with_credentials_is_refused_by_its_place_and_not_shown() -> None:
    check_no_credentials({"source.uris[0]": "s3://photos/me@home/a.jpg?sig=1"})
    with pytest.raises(UsageError, match=r"^source\.uris\[1\] contains a password or a signature") as caught:
        check_no_credentials({"source.uris[0]": "s3://photos", "source.uris[1]": "https://me:hush@host/a.jpg"})
    assert "hush" not in caught.value.message

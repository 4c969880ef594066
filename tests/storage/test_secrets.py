"""Nothing that lets anybody in may be read in a message or a record."""

from __future__ import annotations

import pytest

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage.secrets import redacted, scrub, scrubbed, secret_strings

OPTIONS = {
    "key": "AKIA123",
    "secret": "s3cr/et+",
    "anon": False,
    "client_kwargs": {"endpoint_url": "http://minio:9000", "aws_session_token": "t0ken"},
}


def test_redacted_options_keep_their_keys_and_no_value() -> None:
    assert redacted(OPTIONS) == {
        "key": "***",
        "secret": "***",
        "anon": "***",
        "client_kwargs": {"endpoint_url": "***", "aws_session_token": "***"},
    }


def test_every_string_among_the_options_is_scrubbed_but_not_the_endpoint() -> None:
    text = "AKIA123 with s3cr/et+ and t0ken at http://minio:9000"
    assert scrub(text, OPTIONS) == "*** with *** and *** at http://minio:9000"


def test_a_secret_in_a_list_is_one_too() -> None:
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
def test_urls_lose_their_secrets_and_nothing_else(text: str, clean: str) -> None:
    assert scrub(text, {}).removesuffix(" no").removesuffix(":") == clean.removesuffix(" no").removesuffix(":")


def test_a_short_value_is_not_taken_for_a_secret() -> None:
    assert scrub("a.jpg is no image", {"key": "no", "secret": ""}) == "a.jpg is no image"


def test_a_scrubbed_error_keeps_its_kind_and_its_facts() -> None:
    clean = scrubbed(ConditionFailed("AKIA123 changed", attempts=3), OPTIONS)
    assert (type(clean), str(clean), clean.message) == (ConditionFailed, "*** changed", "*** changed")
    assert (clean.attempts, clean.code) == (3, Code.CHANGED)
    assert isinstance(clean, StorageError)

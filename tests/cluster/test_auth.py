"""Joining clusters with and without tokens, by the address of a head."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.cluster.auth import auth_mode
from batchtag.errors import RunFailed
from benchmarks.heads import Head


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_cluster_without_tokens_is_joined_without_one_though_there_is_one_in_the_home(
    open_head: Head, home: Path
) -> None:
    """Every local Ray leaves one there."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("of another cluster")
    assert auth_mode(open_head.gcs) == "disabled"


def test_a_cluster_with_tokens_is_joined_with_its_own_only(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match="it asks for a token; set RAY_AUTH_TOKEN"):
        auth_mode(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
    with pytest.raises(RunFailed, match="it does not accept the token it was given"):
        auth_mode(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    assert auth_mode(head.gcs) == "token"


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1:9"])
def test_where_nobody_can_be_asked_a_token_that_is_there_is_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert auth_mode(address) == "disabled"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 32)
    assert auth_mode(address) == "token"

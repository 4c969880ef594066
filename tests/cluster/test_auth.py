"""The authentication mode with which a cluster can be joined, by the address of its head."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.cluster.auth import detect_auth_mode
from batchtag.errors import RunFailed
from benchmarks.heads import Head


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home folder, without any token."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_cluster_without_tokens_is_joined_without_one_although_the_home_folder_holds_one(
    open_head: Head, home: Path
) -> None:
    """Every local Ray leaves a token there."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("of another cluster")
    assert detect_auth_mode(open_head.gcs) == "disabled"


def test_a_cluster_with_tokens_is_joined_only_with_its_own_token(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailed, match="the cluster requires a token; set RAY_AUTH_TOKEN"):
        detect_auth_mode(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
    with pytest.raises(RunFailed, match="the cluster does not accept this token"):
        detect_auth_mode(head.gcs)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    assert detect_auth_mode(head.gcs) == "token"


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1:9"])
def test_a_token_is_used_if_present_where_the_cluster_cannot_be_asked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detect_auth_mode(address) == "disabled"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 32)
    assert detect_auth_mode(address) == "token"

"""Which cluster addresses are safe, and which token goes with them."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from batchtag.cluster.address import is_this_machine, resolve_cluster
from batchtag.errors import UsageError


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://ray.acme.internal:8265", "is neither TLS nor this machine"),
        ("10.0.0.7:8265", "is neither TLS nor this machine"),
        ("10.0.0.7:6379", "is neither TLS nor this machine"),
        ("ray://head.acme.internal:10001", "is neither TLS nor this machine"),
        ("https://ray.acme.internal", "no token for https://ray.acme.internal"),
    ],
)
def test_an_address_without_tls_or_token_is_refused_unless_the_user_insists(address: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve_cluster(address)
    assert resolve_cluster(address, is_insecure=True).address.endswith(address)


@pytest.mark.parametrize("is_insecure", [False, True])
def test_an_address_with_a_password_is_refused_and_not_repeated(is_insecure: bool) -> None:
    """It would be stored in notes, printed, and sent in place of the token."""
    with pytest.raises(
        UsageError, match=r"^the address of ray.acme.internal holds a user name or a password"
    ) as refused:
        resolve_cluster("https://me:hidden@ray.acme.internal", is_insecure=is_insecure)
    assert "hidden" not in refused.value.message


def test_this_machine_is_recognised_by_all_its_addresses() -> None:
    """A head that listens on all interfaces reports its own address, not the loopback's."""
    own = {at.address for info in psutil.net_if_addrs().values() for at in info if at.family is socket.AF_INET}
    assert "127.0.0.1" in own
    assert all(is_this_machine(address) for address in own)
    assert not any(is_this_machine(host) for host in ("192.0.2.1", "224.0.0.1", "2001:db8::1", "ray.acme.internal", ""))


def test_tls_with_a_token_and_this_machine_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "127.0.0.1:6379", "auto"):
        assert resolve_cluster(f"{given}/").address == given
    assert resolve_cluster("").address == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAY_ADDRESS", "https://ray.acme.internal")
    cluster = resolve_cluster("")
    assert (cluster.address, cluster.headers) == ("https://ray.acme.internal", {"Authorization": "Bearer secret"})
    assert "secret" not in repr(cluster)


def test_the_token_is_found_where_ray_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert resolve_cluster("").token == "of the home"
    (tmp_path / "named").write_text("of the file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert resolve_cluster("").token == "of the file"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"RAY_AUTH_TOKEN_PATH is .*absent, which cannot be read"):
        resolve_cluster("")

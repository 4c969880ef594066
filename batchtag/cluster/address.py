"""Which cluster, and whether it may be spoken to: TLS and a token, or a tunnel, unless the user insists.

Whoever reaches the dashboard port of a Ray head runs code on the whole cluster, so a job, and the token with it, goes
nowhere in the clear. The token comes from where Ray looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, then
~/.ray/auth_token.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from batchtag.cluster.auth import find_token
from batchtag.errors import UsageError

DASHBOARD_PORT = 8265


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The address of a head's dashboard, or any other address that Ray accepts, and the token for it."""

    address: str
    token: str = field(default="", repr=False)
    insecure: bool = False
    """Somebody insisted."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def cluster_at(asked: str, *, insecure: bool = False) -> Cluster:
    """The cluster that is asked for, by default RAY_ADDRESS, else a head on this machine.

    Raises UsageError for one that is not safe to speak to, unless `insecure`.
    """
    address = (asked or os.environ.get("RAY_ADDRESS", "") or f"http://127.0.0.1:{DASHBOARD_PORT}").rstrip("/")
    if "://" not in address and address.endswith(f":{DASHBOARD_PORT}"):
        address = f"http://{address}"
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if url.username or url.password:
        raise UsageError(
            f"the address of {url.hostname} holds a name or a password, which would be kept and shown; take it out. "
            "A cluster's token is RAY_AUTH_TOKEN"
        )
    cluster = Cluster(address=address, token=find_token(), insecure=insecure)
    if insecure or address == "auto" or is_this_machine(url.hostname or ""):
        return cluster
    if url.scheme != "https":
        raise UsageError(
            f"{address} is neither TLS nor this machine: whoever listens sees the token, and whoever has it runs code "
            f"there. Use https://, or a tunnel (ssh -L {DASHBOARD_PORT}:127.0.0.1:{DASHBOARD_PORT} head) and "
            f"--address http://127.0.0.1:{DASHBOARD_PORT}; --insecure if the network is private"
        )
    if not cluster.token:
        raise UsageError(
            f"no token for {address}: a cluster that asks for none runs anybody's code. Set RAY_AUTH_TOKEN, or "
            "--insecure if something before it asks who you are"
        )
    return cluster


def is_this_machine(host: str) -> bool:
    """Whether a host of a URL is this machine: the loopback, or an address of its own, as heads know themselves by."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if ip.is_loopback or ip.is_multicast:
        return ip.is_loopback
    try:
        with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as way:
            way.connect((host, 9))  # sends nothing: only whoever is here himself speaks to it from it
            return str(way.getsockname()[0]) == str(ip)
    except OSError:
        return False

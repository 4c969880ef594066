"""The address of a cluster, and whether it is safe to send a job there: TLS with a token, or this machine.

Everybody who reaches the dashboard port of a Ray head can run code on the whole cluster. So a job, and the token with
it, is never sent unencrypted to another machine, unless the user insists with --insecure.
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
    """A cluster by its dashboard's address, or by any other address that Ray accepts, and the token for it."""

    address: str
    token: str = field(default="", repr=False)
    is_insecure: bool = False
    """Whether the user insisted on an address that is not safe."""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers of a request to the dashboard."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def resolve_cluster(given: str, *, is_insecure: bool = False) -> Cluster:
    """Return the cluster at `given`, else at RAY_ADDRESS, else at a head on this machine, with the token found here.

    Raises UsageError if it is not safe to send a job there, unless `is_insecure`.
    """
    address = (given or os.environ.get("RAY_ADDRESS", "") or f"http://127.0.0.1:{DASHBOARD_PORT}").rstrip("/")
    if "://" not in address and address.endswith(f":{DASHBOARD_PORT}"):
        address = f"http://{address}"
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if url.username or url.password:
        raise UsageError(
            f"the address of {url.hostname} holds a user name or a password, which would be stored and printed; remove "
            "it. A cluster's token belongs into RAY_AUTH_TOKEN"
        )
    cluster = Cluster(address=address, token=find_token(), is_insecure=is_insecure)
    if is_insecure or address == "auto" or is_this_machine(url.hostname or ""):
        return cluster
    if url.scheme != "https":
        raise UsageError(
            f"{address} is neither TLS nor this machine: everybody on the network could see the token and "
            f"run code there. Use https://, or a tunnel (ssh -L {DASHBOARD_PORT}:127.0.0.1:{DASHBOARD_PORT} head) and "
            f"--address http://127.0.0.1:{DASHBOARD_PORT}; use --insecure if the network is private"
        )
    if not cluster.token:
        raise UsageError(
            f"no token for {address}: a cluster without tokens runs the code of everybody who reaches it. Set "
            "RAY_AUTH_TOKEN, or use --insecure if a proxy before the cluster authenticates its users"
        )
    return cluster


def is_this_machine(host: str) -> bool:
    """Whether the host of a URL is this machine: the loopback, or one of the machine's own addresses.

    The second case matters because a head that listens on all interfaces reports its own address, not the loopback's.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if ip.is_loopback or ip.is_multicast:
        return ip.is_loopback
    try:
        with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            # Connecting a UDP socket sends nothing. It gets the target's own address only if the target is this
            # machine.
            probe.connect((host, 9))
            return str(probe.getsockname()[0]) == str(ip)
    except OSError:
        return False

"""The token of a Ray cluster: where it lies, and whether a cluster asks for one.

Ray 2.60 decides by itself only for clusters that it starts or finds. Joining one by its address, a process without a
token is turned away, and one that expects tokens from a cluster that has none is taken for dead, and its actors with it
("cancelled before it started running"). Any local `ray.init` leaves a token in the home, so its being there says
nothing. So the cluster is asked first: one call over gRPC, whose Python package comes with Ray's dashboard.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from batchtag.errors import RunFailed, UsageError

_ASK_S = 10.0
_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_ALIVE, _REFUSED, _SILENT = "alive", "refused", "silent"


def find_token() -> str:
    """The token that Ray would use; "" if there is none. Raises UsageError for a file that cannot be read."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        if named:
            raise UsageError(f"RAY_AUTH_TOKEN_PATH is {named}, which cannot be read: {error.strerror}") from error
        return ""


def auth_mode(address: str) -> Literal["token", "disabled"]:
    """What RAY_AUTH_MODE must be to join the cluster at this address.

    The cluster at a host:port is asked. For another address (`auto`, `ray://...`), and for one that does not answer, a
    token that is there is used. Raises RunFailed if the cluster wants a token and there is none or another.
    """
    token = find_token()
    if "://" in address or ":" not in address or (answer := _ask(address)) == _SILENT:
        return "token" if token else "disabled"
    if answer == _ALIVE:
        return "disabled"
    if not token:
        raise RunFailed("it asks for a token; set RAY_AUTH_TOKEN to the cluster's own")
    if _ask(address, token) == _REFUSED:
        raise RunFailed("it does not accept the token it was given; set RAY_AUTH_TOKEN to the cluster's own")
    return "token"


def _ask(address: str, token: str = "") -> str:
    """What a head says to whoever shows that token: an empty question is a valid one, and the answer is not read."""
    import grpc

    # As Ray itself: a proxy for the web is none for a cluster, and would see the token.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        question = channel.unary_unary(_QUESTION)
        shown = [("authorization", f"Bearer {token}")] if token else []
        try:
            question(b"", timeout=_ASK_S, metadata=shown)
        except grpc.RpcError as error:
            return _REFUSED if error.code() is grpc.StatusCode.UNAUTHENTICATED else _SILENT
    return _ALIVE

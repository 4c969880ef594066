"""The token of a Ray cluster: where it is stored, and whether a cluster requires one.

Workaround for Ray 2.60, which chooses the authentication mode by itself only for clusters that it starts or finds. A
process without a token that joins a cluster by address is refused. A process that expects tokens from a cluster
without them takes it for dead, and its actors too ("cancelled before it started running"). Every local `ray.init`
leaves a token in the home folder, so the presence of one proves nothing. So the cluster is asked first, in one gRPC
call; grpc is installed with Ray's dashboard. It can go when `ray.init(address=...)` asks the cluster itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from batchtag.errors import RunFailed, UsageError

_TIMEOUT_S = 10.0
"""Seconds to wait for the cluster's answer."""
_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_ALIVE, _REFUSED, _NO_ANSWER = "alive", "refused", "no answer"


def find_token() -> str:
    """Return the token that Ray would use; "" if there is none.

    Ray looks in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, and in ~/.ray/auth_token. Raises UsageError if
    RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        if named:
            raise UsageError(
                f"RAY_AUTH_TOKEN_PATH is {named}, which cannot be read: {error.strerror}; name a readable file"
            ) from error
        return ""


def detect_auth_mode(address: str) -> Literal["token", "disabled"]:
    """Return the RAY_AUTH_MODE with which the cluster at this address can be joined.

    A cluster at host:port is asked. For any other address (`auto`, `ray://...`) and for a cluster that does not
    answer, the mode is "token" if a token is found. Raises RunFailed if the cluster requires a token and none, or a
    wrong one, is found.
    """
    token = find_token()
    if "://" in address or ":" not in address or (answer := _check_alive(address)) == _NO_ANSWER:
        return "token" if token else "disabled"
    if answer == _ALIVE:
        return "disabled"
    if not token:
        raise RunFailed("the cluster requires a token; set RAY_AUTH_TOKEN to the cluster's token")
    if _check_alive(address, token) == _REFUSED:
        raise RunFailed("the cluster does not accept this token; set RAY_AUTH_TOKEN to the cluster's token")
    return "token"


def _check_alive(address: str, token: str = "") -> str:
    """Ask a head whether it is alive, and return the kind of answer. An empty request is a valid one."""
    import grpc

    # As Ray does: a web proxy does not lead to a cluster, and would see the token.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check_alive = channel.unary_unary(_METHOD)
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            check_alive(b"", timeout=_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            return _REFUSED if error.code() is grpc.StatusCode.UNAUTHENTICATED else _NO_ANSWER
    return _ALIVE

"""Just enough of S3 over HTTP to misbehave as real services do: the things moto never does."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY = b"the bytes of an image" * 1000

Answer = Callable[["_Handler"], None]


class FaultyS3:
    """Gives the answers of its script, one a request, then the object. `requests` has the lines it was asked."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[str] = []
        self.end = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faults = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def options(self, **config: Any) -> dict[str, Any]:
        """Storage options that lead here; `config` is botocore's."""
        return {
            "key": "AKIAOFAFAULTYSERVICE",
            "secret": "secret-of-the-faulty-service",
            "client_kwargs": {"endpoint_url": self.url},
            "config_kwargs": {"s3": {"addressing_style": "path"}, **config},
        }

    @contextmanager
    def running(self) -> Iterator[FaultyS3]:
        self._thread.start()
        try:
            yield self
        finally:
            self.end.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing on stderr when a client has heard enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        faults: FaultyS3 = self.server.faults  # type: ignore[attr-defined]
        faults.requests.append(self.requestline)
        answer = faults.script.pop(0) if faults.script else the_object()
        answer(self)

    do_HEAD = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def the_object(data: bytes = BODY, *, promised_bytes: int | None = None) -> Answer:
    """The object; or, with more bytes promised than given, a body that ends early."""

    def answer(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"abc"')
        handler.send_header("Content-Length", str(len(data) if promised_bytes is None else promised_bytes))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = promised_bytes is not None

    return answer


def in_chunks(data: bytes) -> Answer:
    """The object without saying how long it is."""

    def answer(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"abc"')
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(data), 1000):
            piece = data[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def refusal(status: int, name: str) -> Answer:
    """An error as S3 words it."""

    def answer(handler: _Handler) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>because</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def gibberish(handler: _Handler) -> None:
    """Half an XML document, as an overloaded proxy sends it."""
    handler.send_response(200)
    handler.send_header("Content-Length", "9")
    handler.end_headers()
    handler.wfile.write(b"<List><Co")


def reset(handler: _Handler) -> None:
    """The connection is reset before anything is said."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def silence(handler: _Handler) -> None:
    """Nothing is ever said; the server's end ends it."""
    handler.server.faults.end.wait()  # type: ignore[attr-defined]
    handler.close_connection = True

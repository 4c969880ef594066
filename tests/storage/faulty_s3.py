"""A small S3 server that fails in the ways of real services, which moto cannot do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY = b"the bytes of an image" * 1000

Response = Callable[["_Handler"], None]


class FaultyS3:
    """A server that sends the responses of `script`, one per request, and after that the object `BODY`.

    `requests` are the request lines it has received.
    """

    def __init__(self) -> None:
        self.script: list[Response] = []
        self.requests: list[str] = []
        self.end = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faulty = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def options(self, **config: Any) -> dict[str, Any]:
        """Return storage options for this server; `config` is added to the options of botocore."""
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
        """Print nothing when a client closes its connection early."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        faulty: FaultyS3 = self.server.faulty  # type: ignore[attr-defined]
        faulty.requests.append(self.requestline)
        respond = faulty.script.pop(0) if faulty.script else send_object()
        respond(self)

    do_HEAD = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def send_object(data: bytes = BODY, *, promised_bytes: int | None = None) -> Response:
    """Send the object. With `promised_bytes`, Content-Length is that number, and the body may end too early."""

    def respond(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"abc"')
        handler.send_header("Content-Length", str(len(data) if promised_bytes is None else promised_bytes))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = promised_bytes is not None

    return respond


def send_chunks(data: bytes) -> Response:
    """Send the object in chunks, without Content-Length."""

    def respond(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"abc"')
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(data), 1000):
            piece = data[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return respond


def send_error(status: int, name: str) -> Response:
    """Send an error in the format of S3."""

    def respond(handler: _Handler) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>because</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return respond


def send_half_document(handler: _Handler) -> None:
    """Send half an XML document, as an overloaded proxy does."""
    handler.send_response(200)
    handler.send_header("Content-Length", "9")
    handler.end_headers()
    handler.wfile.write(b"<List><Co")


def reset_connection(handler: _Handler) -> None:
    """Reset the connection before the response."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def send_nothing(handler: _Handler) -> None:
    """Send nothing until the server stops."""
    handler.server.faulty.end.wait()  # type: ignore[attr-defined]
    handler.close_connection = True

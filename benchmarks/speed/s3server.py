"""A read-only S3 server in a process of its own: GET with ranges, HEAD, and listings of a folder of files.

moto, which the tests use, would take a whole core, and the benchmark would measure moto. This server implements only
what readers need: it checks no signatures, and nothing can be written. The keys are the files' paths below the root.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

REGION = "eu-central-1"
_HEAD_LIMIT = 64 * 1024


@contextmanager
def run_server(root: Path, *, latency_s: float = 0.0) -> Iterator[str]:
    """Run a server for a folder, whose subfolders are the buckets, and yield its endpoint.

    Every response begins `latency_s` after its request.
    """
    command = [sys.executable, "-m", "benchmarks.speed.s3server", str(root), str(latency_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise SystemExit(f"the S3 server did not start: {' '.join(command)} ended with {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def s3_environment(endpoint_url: str) -> dict[str, str]:
    """Return the environment variables by which AWS's tools, and so all contenders, find the server."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEBENCHMARK00",
        "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-benchmark",
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Connection(asyncio.Protocol):
    """One connection of a client, kept open. Requests of readers have no body, so a request ends with its headers."""

    def __init__(self, root: Path, latency_s: float) -> None:
        self._root = root
        self._latency_s = latency_s
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            asyncio.get_running_loop().call_later(self._latency_s, self._respond, head)
        if len(self._received) > _HEAD_LIMIT:
            self._transport.close()

    def _respond(self, head: bytes) -> None:
        assert self._transport is not None
        for piece in respond(self._root, head.decode("latin-1")):
            self._transport.write(piece)


def respond(root: Path, head: str) -> list[bytes]:
    """Return the response to one request: headers and body separately, so that a large body is not copied."""
    request, *lines = head.split("\r\n")
    method, target, _ = request.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    if method not in ("GET", "HEAD"):
        return _error_response(405, "MethodNotAllowed")
    if not key:
        return (
            _list_objects(root, bucket, parse_qs(query, keep_blank_values=True))
            if method == "GET"
            else _headers(200, {})
        )
    try:
        with open(root / bucket / key, "rb") as file:
            status = os.fstat(file.fileno())
            start, length = _parse_range(headers.get("range", ""), status.st_size)
            file.seek(start)
            body = file.read(length) if method == "GET" else b""
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return _error_response(404, "NoSuchKey")
    fields = {
        "Content-Length": str(length),
        "Content-Type": "image/jpeg",
        "ETag": _etag(status),
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    if "range" not in headers:
        return [*_headers(200, fields), body]
    fields["Content-Range"] = f"bytes {start}-{start + length - 1}/{status.st_size}"
    return [*_headers(206, fields), body]


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """Return first byte and length of `bytes=a-b`, `bytes=a-` or `bytes=-n`; the whole object without a range."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not text:
        return 0, size
    if not first:
        return max(0, size - int(last)), min(size, int(last))
    start = min(int(first), size)
    return start, (min(int(last) + 1, size) if last else size) - start


def _list_objects(root: Path, bucket: str, query: dict[str, list[str]]) -> list[bytes]:
    """Respond to ListObjectsV2 and GetBucketLocation. The token of a page is the last key of the page before."""
    if "location" in query:
        return _xml(f"<LocationConstraint>{REGION}</LocationConstraint>")
    if not (root / bucket).is_dir():
        return _error_response(404, "NoSuchBucket")
    prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", query.get("start-after", [""]))[0]
    max_keys, delimiter = int(query.get("max-keys", ["1000"])[0]), query.get("delimiter", [""])[0]
    all_keys = sorted(
        str((Path(folder) / name).relative_to(root / bucket))
        for folder, _, files in os.walk(root / bucket)
        for name in files
    )
    keys, folders = [], set()
    for key in all_keys:
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            elif key > after:
                keys.append(key)
    page, is_truncated = keys[:max_keys], len(keys) > max_keys
    is_quoted = query.get("encoding-type") == ["url"]
    rows = "".join(_object_entry(root / bucket / key, quote(key, safe="/") if is_quoted else key) for key in page)
    rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_truncated else ""
    fields = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
    fields += f"<MaxKeys>{max_keys}</MaxKeys><IsTruncated>{'true' if is_truncated else 'false'}</IsTruncated>{token}"
    return _xml(f"<ListBucketResult>{fields}{rows}</ListBucketResult>")


def _object_entry(path: Path, key: str) -> str:
    status = path.stat()
    modified = datetime.fromtimestamp(int(status.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>{escape(_etag(status))}</ETag><Size>{status.st_size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_ino:016x}{int(status.st_mtime):016x}"'


def _xml(body: str, *, status: int = 200) -> list[bytes]:
    data = f'<?xml version="1.0" encoding="UTF-8"?>{body}'.encode()
    return [*_headers(status, {"Content-Type": "application/xml", "Content-Length": str(len(data))}), data]


def _error_response(status: int, code: str) -> list[bytes]:
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status=status)


def _headers(status: int, fields: dict[str, str]) -> list[bytes]:
    fields = {"Content-Length": "0"} | fields
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return [f"HTTP/1.1 {status} -\r\nServer: bench\r\nx-amz-request-id: 1\r\n{lines}\r\n".encode()]


async def _serve(root: Path, latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(root, latency_s), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))

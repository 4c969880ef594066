"""An S3 server for reading, in a process of its own: GET with ranges, HEAD, and listings of a folder of files.

moto, which the tests use, would take a core for itself and be what is measured. This one does no more than the protocol
asks of a reader (no signatures are checked, nothing can be written). Keys are the files' paths under the root.
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
def serving(root: Path, *, latency_s: float = 0.0) -> Iterator[str]:
    """The endpoint of a server of that folder: its subfolders are the buckets. It ends with the context.

    Every answer begins `latency_s` after its question.
    """
    words = [sys.executable, "-m", "benchmarks.speed.s3server", str(root), str(latency_s)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise SystemExit(f"the S3 server did not start: {' '.join(words)} ended with {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def environment(endpoint_url: str) -> dict[str, str]:
    """What AWS's tools, and so all contenders, go by."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEBENCHMARK00",
        "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-benchmark",
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Connection(asyncio.Protocol):
    """One client's connection, kept open. Requests of readers have no body, so a request ends with its head."""

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
            asyncio.get_running_loop().call_later(self._latency_s, self._answer, head)
        if len(self._received) > _HEAD_LIMIT:
            self._transport.close()

    def _answer(self, head: bytes) -> None:
        assert self._transport is not None
        for piece in answer(self._root, head.decode("latin-1")):
            self._transport.write(piece)


def answer(root: Path, head: str) -> list[bytes]:
    """The response to one request, head and body apart so that a large body is not copied."""
    request, *lines = head.split("\r\n")
    method, target, _ = request.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    if method not in ("GET", "HEAD"):
        return _failure(405, "MethodNotAllowed")
    if not key:
        return _listing(root, bucket, parse_qs(query, keep_blank_values=True)) if method == "GET" else _head(200, {})
    try:
        with open(root / bucket / key, "rb") as file:
            status = os.fstat(file.fileno())
            start, length = _range(headers.get("range", ""), status.st_size)
            file.seek(start)
            body = file.read(length) if method == "GET" else b""
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return _failure(404, "NoSuchKey")
    facts = {
        "Content-Length": str(length),
        "Content-Type": "image/jpeg",
        "ETag": _etag(status),
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    if "range" not in headers:
        return [*_head(200, facts), body]
    facts["Content-Range"] = f"bytes {start}-{start + length - 1}/{status.st_size}"
    return [*_head(206, facts), body]


def _range(text: str, size: int) -> tuple[int, int]:
    """First byte and length of `bytes=a-b`, `bytes=a-` or `bytes=-n`; all of it where none was asked for."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not text:
        return 0, size
    if not first:
        return max(0, size - int(last)), min(size, int(last))
    start = min(int(first), size)
    return start, (min(int(last) + 1, size) if last else size) - start


def _listing(root: Path, bucket: str, query: dict[str, list[str]]) -> list[bytes]:
    """ListObjectsV2, and GetBucketLocation. Pages go by the last key of the page before."""
    if "location" in query:
        return _xml(f"<LocationConstraint>{REGION}</LocationConstraint>")
    if not (root / bucket).is_dir():
        return _failure(404, "NoSuchBucket")
    prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", query.get("start-after", [""]))[0]
    most, delimiter = int(query.get("max-keys", ["1000"])[0]), query.get("delimiter", [""])[0]
    found = sorted(
        str((Path(folder) / name).relative_to(root / bucket))
        for folder, _, files in os.walk(root / bucket)
        for name in files
    )
    keys, folders = [], set()
    for key in found:
        if key.startswith(prefix):
            beyond = key[len(prefix) :]
            if delimiter and delimiter in beyond:
                folders.add(prefix + beyond.split(delimiter)[0] + delimiter)
            elif key > after:
                keys.append(key)
    page, more = keys[:most], len(keys) > most
    is_quoted = query.get("encoding-type") == ["url"]
    rows = "".join(_entry(root / bucket / key, quote(key, safe="/") if is_quoted else key) for key in page)
    rows += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    facts = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
    facts += f"<MaxKeys>{most}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}"
    return _xml(f"<ListBucketResult>{facts}{rows}</ListBucketResult>")


def _entry(path: Path, key: str) -> str:
    status = path.stat()
    when = datetime.fromtimestamp(int(status.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
        f"<ETag>{escape(_etag(status))}</ETag><Size>{status.st_size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_ino:016x}{int(status.st_mtime):016x}"'


def _xml(body: str, *, status: int = 200) -> list[bytes]:
    data = f'<?xml version="1.0" encoding="UTF-8"?>{body}'.encode()
    return [*_head(status, {"Content-Type": "application/xml", "Content-Length": str(len(data))}), data]


def _failure(status: int, code: str) -> list[bytes]:
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status=status)


def _head(status: int, facts: dict[str, str]) -> list[bytes]:
    facts = {"Content-Length": "0"} | facts
    lines = "".join(f"{name}: {value}\r\n" for name, value in facts.items())
    return [f"HTTP/1.1 {status} -\r\nServer: bench\r\nx-amz-request-id: 1\r\n{lines}\r\n".encode()]


async def _serve(root: Path, latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(root, latency_s), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))

"""Weight files on this machine: each is downloaded once per node, checked by its hash, and shared by all workers.

The files are where torchvision keeps them (`torch.hub.get_dir()/checkpoints`), so a machine that has them already
downloads nothing. A file gets its name only when it is complete and checked. A file lock lets one worker of a node
download while the others wait. http(s) is read with requests and not through a store, because requests obeys
HTTPS_PROXY and REQUESTS_CA_BUNDLE, and clusters are often behind proxies. torch and requests are imported where they
are used, because the driver needs neither when the weights are present.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse
from zipfile import is_zipfile

from filelock import FileLock

from batchtag.errors import Code, ModelError, StorageError
from batchtag.models.http_download import read_http_chunks
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.retry import with_retries

MIRROR_VARIABLE = "BATCHTAG_WEIGHTS"
"""The environment variable with the folder or URI of a mirror, for machines that cannot reach the publisher."""

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 4 * 2**20
"""Size of one read."""
_REPORT_BYTES = 256 * 2**20
"""Distance between two progress lines in the log."""
_HASH = re.compile(r"-([a-f0-9]{8,64})\.")
"""The first digits of the sha256 in the name of a published file."""


def fetch_weights(url: str, sha256_prefix: str) -> Path:
    """Return the path of published weights on this machine, after fetching them if necessary.

    The content is checked against the hash in the file's name; a cached file with another hash is fetched again. The
    file is read from the folder or URI in BATCHTAG_WEIGHTS if that is set, otherwise from `url`. Raises ModelError with
    the cause and the remedies. Runs on the driver and in every worker.
    """
    path = cache_folder() / file_name(url)
    mirror = os.environ.get(MIRROR_VARIABLE, "")
    source = join_uri(absolute_uri(mirror), path.name) if mirror else url
    origin = f"{source} (the mirror that {MIRROR_VARIABLE} names, for {url})" if mirror else url
    mismatch = (
        f"its name says {sha256_prefix}; the answer is not the published file (the page of a proxy? an outdated copy?)"
    )
    try:
        return fetch_file(source, path, sha256_prefix=sha256_prefix, mismatch=mismatch)
    except StorageError as error:
        raise ModelError(
            f"{origin}: the weights cannot be fetched: {error.message}. Set {MIRROR_VARIABLE} to a folder or URI that "
            f"holds {path.name}, or run untrained with `weights: none`"
        ) from error


def has_weights(name: str) -> bool:
    """Whether published weights with this file name are on this machine, with the content that the name promises."""
    return _is_complete(cache_folder() / name, sha256_prefix(name))


def fetch_file(
    source: str,
    path: Path,
    *,
    sha256_prefix: str,
    mismatch: str,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Copy `source` to `path` unless `path` already has this content; return `path`.

    Raises StorageError if the source cannot be read, and ModelError if its content has another hash; `mismatch` ends
    that message.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # the lock of a killed process is free again
            if not _is_complete(path, sha256_prefix):
                _retry_download(
                    source, path, lambda: _download(source, path, sha256_prefix, mismatch, storage_options or {})
                )
    except OSError as error:
        raise ModelError(
            f"{path}: the weights cannot be stored there: {error.strerror or error}. "
            "Make the folder writable, or set TORCH_HOME to a folder that is"
        ) from error
    return path


def check_file(path: Path, *, sha256_prefix: str, mismatch: str) -> Path:
    """Check the content of a local file against its hash; return the path.

    Raises StorageError if the file cannot be read, and ModelError as `fetch_file` does.
    """
    try:
        sha256 = compute_sha256(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", code=Code.NOT_FOUND) from error
    _check_sha256(sha256, sha256_prefix, f"{path}", mismatch)
    return path


def load_weights(path: Path) -> dict[str, Any]:
    """Load the state dict of a checked file, on the CPU, memory-mapped where its format allows it."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is not a file of weights: it is not a pickle, or it holds more than tensors, which could be code "
            "and is not read. Delete the file to have it fetched again"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelError(f"{path}: is not a file of weights that torch can read: {error}") from error
    return state


def cache_folder() -> Path:
    """Return the folder of torchvision's downloads, `torch.hub.get_dir()/checkpoints`, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def file_name(url: str) -> str:
    """Return the name that a published file has in the cache and in a mirror."""
    return os.path.basename(urlparse(url).path)


def sha256_prefix(url: str) -> str:
    """Return the first digits of the file's sha256, which are in its name. Raises ModelError if there are none."""
    match = _HASH.search(file_name(url))
    if match is None:
        raise ModelError(
            f"{url}: its name has no sha256 (name-<8 hex digits or more>.pth), so the file cannot be checked"
        )
    return match.group(1)


def compute_sha256(path: Path) -> str:
    """Compute the sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_complete(path: Path, expected: str) -> bool:
    if not path.exists():
        return False
    if compute_sha256(path).startswith(expected):
        return True
    _log.warning("%s does not have the sha256 %s...; fetching it again", path, expected)
    return False


def _retry_download(source: str, path: Path, download: Callable[[], None]) -> None:
    started = time.monotonic()
    _log.info("fetching %s", source)
    with_retries(download)
    _log.info("fetched %s: %.1f MB in %.0f s", source, path.stat().st_size / 1e6, time.monotonic() - started)


def _download(source: str, path: Path, expected: str, mismatch: str, storage_options: Mapping[str, Any]) -> None:
    """Make one attempt. Afterwards `path` is the complete file, or does not exist."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        # 1. Copy everything to a file that no reader knows, and make sure that it is on the disk.
        with os.fdopen(handle, "wb") as sink:
            with closing(_read_chunks(source, storage_options)) as chunks:
                sha256 = _copy(chunks, sink, source)
            os.fsync(sink.fileno())
        # 2. Check the content.
        _check_sha256(sha256, expected, source, mismatch)
        # 3. Give it the name that readers open, with the permissions of an ordinary file.
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _check_sha256(sha256: str, expected: str, origin: str, mismatch: str) -> None:
    if not sha256.startswith(expected):
        raise ModelError(f"{origin} has sha256 {sha256[:16]}..., {mismatch}")


def _copy(chunks: Iterable[bytes], sink: BinaryIO, source: str) -> str:
    """Copy everything, log the progress, and return the sha256 of the content."""
    sha256 = hashlib.sha256()
    num_bytes = num_reported = 0
    for chunk in chunks:
        sink.write(chunk)
        sha256.update(chunk)
        num_bytes += len(chunk)
        if num_bytes - num_reported >= _REPORT_BYTES:
            num_reported = num_bytes
            _log.info("fetching %s: %.0f MB so far", source, num_bytes / 1e6)
    return sha256.hexdigest()


def _read_chunks(source: str, storage_options: Mapping[str, Any]) -> Generator[bytes]:
    if scheme_of(source) in ("http", "https"):
        yield from read_http_chunks(source, chunk_bytes=_CHUNK_BYTES)
        return
    with closing(open_store(source, storage_options).open(source)) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk

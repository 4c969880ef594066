"""Published weight files, fetched once per node: downloaded by one worker, checked by hash, used by all.

They lie where torchvision itself keeps them (`torch.hub.get_dir()/checkpoints`), so a machine that has them downloads
nothing. A file takes its name only when whole and checked, under a lock of its own that eight workers may wait for.
http(s) is read with urllib and not through a store, because it obeys HTTPS_PROXY and clusters sit behind proxies.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
import pickle
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse
from zipfile import is_zipfile

from batchtag.errors import Code, ModelError, StorageError
from batchtag.storage import absolute_uri, join_uri, open_store, scheme_of
from batchtag.storage.retry import with_retries

MIRROR = "BATCHTAG_WEIGHTS"
"""The variable that names a folder or URI with the weight files, for machines that cannot reach the published ones."""

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 4 * 2**20
_REPORT_BYTES = 256 * 2**20
_TIMEOUT_S = 60.0
_HASH = re.compile(r"-([a-f0-9]{8,64})\.")
_OF_THE_DAY = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch_weights(url: str, sha256_prefix: str) -> Path:
    """The file of published weights on this machine, its content checked against the hash that its name carries.

    Read from the folder or URI in BATCHTAG_WEIGHTS if that is set, else from `url`. A cached file with another hash is
    fetched again. Raises ModelError with the cause and the ways out. Runs on the driver, and in every worker.
    """
    path = cache_folder() / file_name(url)
    mirror = os.environ.get(MIRROR, "")
    source = join_uri(absolute_uri(mirror), path.name) if mirror else url
    where = f"{source} (the mirror that {MIRROR} names, for {url})" if mirror else url
    blame = (
        f"its name says {sha256_prefix}; what answers there is not the published file (a proxy's page? a stale copy?)"
    )
    try:
        return fetch_file(source, path, sha256_prefix=sha256_prefix, blame=blame)
    except StorageError as error:
        raise ModelError(
            f"{where}: the weights cannot be fetched: {error.message}. Set {MIRROR} to a folder or URI that holds "
            f"{path.name}, or run untrained with `weights: none`"
        ) from error


def has_weights(name: str) -> bool:
    """Whether the file of published weights with that name is on this machine, and holds what its name says."""
    return _is_there(cache_folder() / name, sha256_prefix(name))


def fetch_file(
    source: str,
    path: Path,
    *,
    sha256_prefix: str,
    blame: str,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """`path`, holding what `source` holds; nothing is fetched if it already does.

    Raises StorageError if it cannot be fetched, ModelError if what came has another hash; `blame` ends that message.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f".{path.name}.lock")):
            if not _is_there(path, sha256_prefix):
                _fetch(source, path, lambda: _download(source, path, sha256_prefix, blame, storage_options or {}))
    except OSError as error:
        raise ModelError(
            f"{path}: weights cannot be kept there: {error.strerror or error}. "
            "Make it writable, or set TORCH_HOME to a folder that is"
        ) from error
    return path


def check_file(path: Path, *, sha256_prefix: str, blame: str) -> Path:
    """The same path, after its content proved to have that hash. Raises ModelError or StorageError as `fetch_file`."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", code=Code.NOT_FOUND) from error
    _check(digest, sha256_prefix, f"{path}", blame)
    return path


def load_weights(path: Path) -> dict[str, Any]:
    """The state dict in a checked file, on the CPU, mapped from the disk where its format allows it."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is not a file of weights: it is no pickle, or holds more than tensors, which could be code and "
            "is not read. Delete it to have it fetched again"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelError(f"{path}: is not a file of weights that torch can read: {error}") from error
    return state


def cache_folder() -> Path:
    """Where torchvision keeps its downloads, `torch.hub.get_dir()/checkpoints`, without importing torch for it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def file_name(url: str) -> str:
    """The name a published file has in the cache and in a mirror."""
    return os.path.basename(urlparse(url).path)


def sha256_prefix(url: str) -> str:
    """The first digits of the file's sha256, which torchvision puts in its name. Raises ModelError if it has none."""
    found = _HASH.search(file_name(url))
    if found is None:
        raise ModelError(
            f"{url}: its name carries no sha256 (name-<8 hex digits or more>.pth), so it cannot be checked"
        )
    return found.group(1)


def sha256_of(path: Path) -> str:
    """All 64 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(path: Path, expected: str) -> bool:
    if not path.exists():
        return False
    if sha256_of(path).startswith(expected):
        return True
    _log.warning("%s has not the sha256 %s...; fetching it again", path, expected)
    return False


def _fetch(source: str, path: Path, attempt: Callable[[], None]) -> None:
    started = time.monotonic()
    _log.info("fetching %s", source)
    with_retries(attempt)
    _log.info("fetched %s: %.1f MB in %.0f s", source, path.stat().st_size / 1e6, time.monotonic() - started)


def _download(source: str, path: Path, expected: str, blame: str, storage_options: Mapping[str, Any]) -> None:
    """One attempt. What it leaves is the whole file, or nothing under that name."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as sink, closing(_open(source, storage_options)) as stream:
            digest = _copy(stream, sink, source)
            os.fsync(sink.fileno())
        _check(digest, expected, source, blame)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _check(digest: str, expected: str, origin: str, blame: str) -> None:
    if not digest.startswith(expected):
        raise ModelError(f"{origin} has sha256 {digest[:16]}..., {blame}")


def _copy(stream: BinaryIO, sink: BinaryIO, source: str) -> str:
    """Copies all of it and gives its sha256; says in the log how far it is."""
    sha256 = hashlib.sha256()
    num_bytes = reported = 0
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            sink.write(chunk)
            sha256.update(chunk)
            num_bytes += len(chunk)
            if num_bytes - reported >= _REPORT_BYTES:
                reported = num_bytes
                _log.info("fetching %s: %.0f MB so far", source, num_bytes / 1e6)
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise StorageError(f"the connection broke after {num_bytes:,} bytes: {error!r}", transient=True) from error
    # http.client counts down `length`, and tells nobody when the body ends early.
    if missing := getattr(stream, "length", None):
        raise StorageError(f"the body ended {missing:,} bytes early, after {num_bytes:,}", transient=True)
    return sha256.hexdigest()


def _open(source: str, storage_options: Mapping[str, Any]) -> BinaryIO:
    if scheme_of(source) not in ("http", "https"):
        return open_store(source, storage_options).open(source)
    request = urllib.request.Request(source, headers={"User-Agent": "batchtag"})
    try:
        stream: BinaryIO = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        code = Code.NOT_FOUND if error.code == 404 else Code.UNREACHABLE
        message = f"HTTP {error.code} {error.reason}"
        raise StorageError(message, code=code, transient=error.code in _OF_THE_DAY) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        cause = getattr(error, "reason", error)
        transient = isinstance(cause, TimeoutError | ConnectionError) and not isinstance(cause, ConnectionRefusedError)
        raise StorageError(f"{cause}", transient=transient) from error
    return stream


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process of this machine holds the lock. A killed holder lets go."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""The Ray that a run lives in: a private one on this machine, or a cluster it was told to join.

A private Ray never joins one that happens to run here (`address="local"`), asks for a token that only this run has (any
process of the machine could otherwise run code in it), keeps its files in a folder of its own that goes when the run
ends well, and is quiet: its logs are in that folder, and come to the terminal only with `verbose`. Starting takes about
ten seconds, so it happens in a thread while the input is listed and the models are fetched.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from batchtag.cluster.auth import auth_mode
from batchtag.errors import RunFailed, UsageError
from batchtag.system import available_cores, descendants, end, started

_FOLDER = "batchtag-ray-"
_STOP_S = 30.0
_REACH_S = 10.0
_LONGEST_TMPDIR = 16
"""Ray's sockets lie some 90 characters further down, and a socket's path has 107 at most."""
_PATIENCE_S = 2.0
"""Ray's per-node agents notice only after half a minute that their raylet is gone; nothing is lost by ending them."""
_STARTS, _IS_LATE = 3, "timed out during startup"
"""Ray 2.60 gives a node 30 s, hard-coded, to start; on a machine that others keep busy that may be too little."""
_LEFT_BEHIND_S = 24 * 3600.0
_OBJECT_STORE_BYTES, _WITH_PIXELS_BYTES = 256 * 2**20, 2**30
"""Bundles and commits are a few hundred bytes each; pixels go through the object store if others open images."""


def address_of(asked: str) -> str:
    """The cluster to join: what the job or the flag says, else RAY_ADDRESS, else "" for a private Ray.

    Raises UsageError for a dashboard's address.
    """
    address = asked or os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        host = urlsplit(address).netloc.rpartition("@")[2]
        raise UsageError(
            f"{host} is a dashboard, and takes jobs: `batchtag submit`. Here a cluster is joined (`auto` on one of "
            "its machines, or head:6379)" + ("" if asked else "; unset RAY_ADDRESS to run on this machine alone")
        )
    return address


def _remove_left_behind() -> None:
    """Delete the folders of private Rays whose driver was killed and could not."""
    for folder in Path(_folder_of_folders()).glob(f"{_FOLDER}*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        found = folder.stat()
        is_old = (
            found.st_mtime < time.time() - _LEFT_BEHIND_S
        )  # a pid may be of another container that shares the folder
        if is_old and pid.isdigit() and found.st_uid == os.getuid() and not started(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _folder_of_folders() -> str:
    """The folder for temporary files, or /tmp where its own path is too long for Ray's sockets."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_TMPDIR else "/tmp"


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody answers at host:port: Ray would wait for ever, and nothing could interrupt it."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()


def _rays_processes() -> dict[int, str]:
    """Those of Ray's that descend from this one, as `descendants` gives them."""
    return {pid: mark for pid, mark in descendants(os.getpid()).items() if _is_ray(pid)}


def _is_ray(pid: int) -> bool:
    """Whether a child of ours is one of Ray's processes, by its command line."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return command.startswith(b"ray::") or b"/ray/" in command


@contextlib.contextmanager
def quiet_ray(*, unless: bool) -> Iterator[None]:
    """Keep what Ray says by itself off the terminal: its C++ on file descriptor 2, its driver's Python on stdout.

    No setting of Ray's does either. `sys.stderr` goes on to reach the terminal. Does nothing when `unless`.
    """
    if unless:
        yield
        return
    with contextlib.redirect_stdout(_nowhere()), _quiet_descriptor():
        yield


@functools.cache
def _nowhere() -> TextIO:
    """Open to the very end: Ray's colorama keeps the stdout it finds, and uses it once more when Python ends."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    atexit.register(nowhere.close)  # before Ray registers its own, so after them
    return nowhere


@contextlib.contextmanager
def _quiet_descriptor() -> Iterator[None]:
    if not _is_real(sys.stderr):
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    before = sys.stderr
    os.dup2(_nowhere().fileno(), 2)
    # Not closed either: loggers that were set up meanwhile hold it.
    sys.stderr = open(os.dup(saved), "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    try:
        yield
    finally:
        sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)


def _is_real(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False


class RaySession:
    """Ray, from `start` to `stop`. One per process at a time.

    `ready` is done when Ray is there, or holds the RunFailed that says why it is not.
    """

    def __init__(self, *, address: str, verbose: bool, carries_pixels: bool = False) -> None:
        self._object_store_bytes = _WITH_PIXELS_BYTES if carries_pixels else _OBJECT_STORE_BYTES
        self._address = address_of(address)
        self._verbose = verbose
        self._folder: Path | None = None
        self.ready: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.start_s = 0.0

    @property
    def joined(self) -> bool:
        """Whether it is a cluster that others may use too."""
        return bool(self._address)

    @property
    def logs(self) -> str:
        """Where to look when something went wrong."""
        return f"{self._folder}/session_latest/logs" if self._folder else "the cluster's Ray dashboard"

    def start(self) -> None:
        """Begin to start Ray, in a thread."""
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._thread.start()

    def stop(self, *, keep_logs: bool) -> None:
        """End it: every process of a private Ray is gone afterwards."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join(timeout=_STOP_S)  # joining a cluster that does not answer cannot be interrupted
        if self._folder is not None and not keep_logs:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _live(self) -> None:
        """Ray from its first to its last moment: what it keeps in the thread that started it must not die before it."""
        began = time.monotonic()
        try:
            self._init()
            self.start_s = time.monotonic() - began
        except Exception as error:  # a thread's end: handed to whoever waits
            place = f"join the Ray cluster at {self._address}" if self._address else "start Ray on this machine"
            self.ready.set_exception(RunFailed(f"could not {place}: {' '.join(str(error).split())}"))
            with contextlib.suppress(Exception):  # what has started already
                sys.modules["ray"].shutdown()
            return
        self.ready.set_result(None)
        self._over.wait()
        import ray

        family = {} if self._address else _rays_processes()
        ray.shutdown()
        end(family, patience_s=_PATIENCE_S)

    def _init(self) -> None:
        self._set_environment()
        import ray

        level = logging.INFO if self._verbose else logging.CRITICAL  # what is fatal, we say ourselves
        logging.getLogger("ray").setLevel(level)
        common: dict[str, Any] = {
            "log_to_driver": self._verbose,
            "logging_level": level,
            "configure_logging": True,
        }
        if self._address:
            _check_reachable(self._address)
            ray.init(address=self._address, **common)
        else:
            self._init_private(common)
        # Ray Data takes a second to import, in which Ray's processes are better on their way. It sets its loggers up
        # and Ray's anew meanwhile, so here is the last word.
        import ray.data

        ray.data.DataContext.get_current()
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(level)

    def _init_private(self, common: dict[str, Any]) -> None:
        import ray

        _remove_left_behind()
        for starts_left in reversed(range(_STARTS)):
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=_folder_of_folders()))
            try:
                ray.init(
                    address="local",
                    num_cpus=max(2, available_cores()),
                    include_dashboard=False,
                    object_store_memory=self._object_store_bytes,
                    _temp_dir=str(self._folder),
                    **common,
                )
                return
            except Exception as error:  # Ray has no class of its own for a node that is late
                if _IS_LATE not in str(error) or not starts_left:
                    raise
            end(_rays_processes(), patience_s=_PATIENCE_S)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _set_environment(self) -> None:
        """What Ray reads from the environment, and only before it is imported."""
        defaults = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        defaults["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a thread that asks Ray anything when it is over joins it anew
        defaults["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # of 2: so long an epoch's end waits to be heard of
        if "RAY_AUTH_MODE" not in os.environ:
            if self._address:
                _check_reachable(self._address)
                defaults["RAY_AUTH_MODE"] = auth_mode(self._address)
            else:
                defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        if not self._address:
            defaults["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # this machine is not taken away; 4 s of a core less
            defaults["REPORTER_UPDATE_INTERVAL_MS"] = "60000"  # of 5,000: for a dashboard that is not there
            if not self._verbose:  # nobody is shown the logs that Ray looks for ten times a second, and reads
                defaults |= {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0", "LOG_NAME_UPDATE_INTERVAL_S": "86400"}
        for name, value in defaults.items():
            os.environ.setdefault(name, value)

"""The Ray of one run: a private one on this machine, or a cluster that the run joins.

A private Ray never joins another Ray of this machine (`address="local"`). It requires a token that only this run knows,
because any process of the machine could otherwise run code in it. Its logs lie in a folder of its own, which is deleted
when the run ends well. Starting takes about ten seconds, so it happens in a thread while the input is listed and the
models are fetched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from batchtag.cluster.auth import detect_auth_mode
from batchtag.cluster.session_folders import make_session_folder, remove_abandoned_folders
from batchtag.errors import RunFailed, UsageError
from batchtag.system import available_cores, end_processes, list_descendants, process_title

_STOP_TIMEOUT_S = 30.0
"""Seconds to wait for the thread of Ray at the end: joining a cluster that does not answer cannot be interrupted."""
_CONNECT_TIMEOUT_S = 10.0
"""Seconds to wait for a connection to a cluster's head."""
_AGENTS_PATIENCE_S = 2.0
"""Seconds to wait for Ray's per-node agents before they are killed. By themselves they notice only after half a minute
that their raylet has ended; nothing is lost by killing them."""
_OBJECT_STORE_BYTES = 256 * 2**20
"""Object store of a run whose workers decode themselves: bundles and commits are a few hundred bytes each."""
_OBJECT_STORE_WITH_PIXELS_BYTES = 2**30
"""Object store of a run with separate decode workers, whose pixels pass through it."""

# --- Workaround for Ray 2.60: a node has 30 s to start, hard-coded. On a machine whose cores are busy that may be too
# little, so Ray is started again. It can go when the limit is a setting.
_MAX_STARTS = 3
_LATE_START_TEXT = "timed out during startup"
"""Part of the message of a node that was late; Ray raises a plain Exception."""


def resolve_address(given: str) -> str:
    """Return the address of the cluster to join: `given`, else RAY_ADDRESS, else "" for a private Ray.

    Raises UsageError for the address of a dashboard, which takes jobs and cannot be joined.
    """
    address = given or os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        host = urlsplit(address).netloc.rpartition("@")[2]
        raise UsageError(
            f"{host} is a dashboard, which takes jobs: use `batchtag submit`. To join a cluster, name `auto` on one of "
            "its machines, or head:6379" + ("" if given else "; unset RAY_ADDRESS to run on this machine alone")
        )
    return address


class RaySession:
    """Ray from `start` to `stop`. One per process at a time; lives in the driver.

    `ready` completes when Ray has started; it holds a RunFailed with the reason when Ray could not start.
    """

    def __init__(self, *, address: str, verbose: bool, carries_pixels: bool = False) -> None:
        self._object_store_bytes = _OBJECT_STORE_WITH_PIXELS_BYTES if carries_pixels else _OBJECT_STORE_BYTES
        self._address = resolve_address(address)
        self._verbose = verbose
        self._folder: Path | None = None
        self.ready: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self.start_s = 0.0
        """Seconds that Ray took to start."""

    @property
    def is_joined(self) -> bool:
        """Whether Ray is a cluster that other runs may use too, not a private one."""
        return bool(self._address)

    @property
    def logs(self) -> str:
        """The place of Ray's logs, for messages about failures."""
        return f"{self._folder}/session_latest/logs" if self._folder else "the cluster's Ray dashboard"

    def start(self) -> None:
        """Start Ray in a thread."""
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()

    def stop(self, *, keep_logs: bool) -> None:
        """Shut Ray down. Afterwards no process of a private Ray is running."""
        if self._thread is None:
            return
        self._is_over.set()
        self._thread.join(timeout=_STOP_TIMEOUT_S)
        if self._folder is not None and not keep_logs:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        """Start Ray, wait for `stop`, and shut Ray down: all in one thread, whose thread-local state Ray needs."""
        # 1. Start. An error becomes the result of `ready`, and processes that have started are shut down.
        began = time.monotonic()
        try:
            self._init()
            self.start_s = time.monotonic() - began
        except Exception as error:
            action = f"join the Ray cluster at {self._address}" if self._address else "start Ray on this machine"
            self.ready.set_exception(RunFailed(f"could not {action}: {' '.join(str(error).split())}"))
            with contextlib.suppress(Exception):
                sys.modules["ray"].shutdown()
            return
        self.ready.set_result(None)
        # 2. Wait for the end of the run.
        self._is_over.wait()
        # 3. List the processes of a private Ray before the shutdown: its agents outlive their parent, and are then no
        #    longer descendants.
        import ray

        processes = [] if self._address else _list_ray_processes()
        ray.shutdown()
        # 4. End the agents.
        end_processes(processes, patience_s=_AGENTS_PATIENCE_S)

    def _init(self) -> None:
        self._set_environment()
        import ray

        level = logging.INFO if self._verbose else logging.CRITICAL  # batchtag reports fatal errors itself
        logging.getLogger("ray").setLevel(level)
        options: dict[str, Any] = {
            "log_to_driver": self._verbose,
            "logging_level": level,
            "configure_logging": True,
        }
        if self._address:
            _check_reachable(self._address)
            ray.init(address=self._address, **options)
        else:
            self._init_private(options)
        # Importing Ray Data takes a second, in which Ray's processes start. The import configures its loggers, and
        # Ray's again, so the level is set once more after it.
        import ray.data

        ray.data.DataContext.get_current()
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(level)

    def _init_private(self, options: dict[str, Any]) -> None:
        import ray

        remove_abandoned_folders()
        for starts_remaining in reversed(range(_MAX_STARTS)):
            self._folder = make_session_folder()
            try:
                ray.init(
                    address="local",
                    num_cpus=max(2, available_cores()),
                    include_dashboard=False,
                    object_store_memory=self._object_store_bytes,
                    _temp_dir=str(self._folder),
                    **options,
                )
                return
            except Exception as error:
                if _LATE_START_TEXT not in str(error) or not starts_remaining:
                    raise
            end_processes(_list_ray_processes(), patience_s=_AGENTS_PATIENCE_S)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _set_environment(self) -> None:
        """Set what Ray reads from the environment; it reads it only when it is imported. The user's values win."""
        defaults = dict(_RAY_DEFAULTS)
        if "RAY_AUTH_MODE" not in os.environ:
            if self._address:
                _check_reachable(self._address)
                defaults["RAY_AUTH_MODE"] = detect_auth_mode(self._address)
            else:
                defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        if not self._address:
            defaults |= _PRIVATE_RAY_DEFAULTS
            if not self._verbose:
                defaults |= _UNREAD_LOGS_DEFAULTS
        for name, value in defaults.items():
            os.environ.setdefault(name, value)


# --- Settings of Ray 2.60 that exist only as environment variables.

_RAY_DEFAULTS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Without this, a thread that calls Ray after the shutdown starts it anew.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # The default is 2 s: the driver learned of the end of an epoch that much later.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
_PRIVATE_RAY_DEFAULTS = {
    # The watcher took 4 s of a core. It waits for a cloud to take the machine away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The default is 5,000 ms; the reports are for a dashboard, and a private Ray has none.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
_UNREAD_LOGS_DEFAULTS = {
    # Ray looks for new log files ten times a second and reads them; without `verbose` they are not shown.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "86400",
}


def _check_reachable(address: str) -> None:
    """Raise OSError if host:port does not answer. Ray itself would wait for ever, and could not be interrupted."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _list_ray_processes() -> list[psutil.Process]:
    """Return those descendants of this process that belong to Ray."""
    return [process for process in list_descendants() if _is_ray_process(process)]


def _is_ray_process(process: psutil.Process) -> bool:
    """Whether a process belongs to Ray, judged from its command line."""
    title = process_title(process)
    return title.startswith("ray::") or "/ray/" in title

"""The temporary folders of private Rays: `batchtag-ray-<pid of the driver>-<random>`, one for each start."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from batchtag.system import process_start_mark

_PREFIX = "batchtag-ray-"
_MAX_TMPDIR_LENGTH = 16
"""Longest usable path of the temporary folder: Ray's sockets lie some 90 characters below it, and the path of a socket
has at most 107."""
_ABANDONED_AFTER_S = 24 * 3600.0
"""Least age of an abandoned folder. A pid in its name may belong to another container that shares the folder, so a pid
without a process alone proves nothing."""


def make_session_folder() -> Path:
    """Create a new folder for a private Ray of this process."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_temporary_folder()))


def remove_abandoned_folders() -> None:
    """Delete the folders of this user's private Rays whose driver was killed before it could delete them."""
    for folder in Path(_temporary_folder()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        facts = folder.stat()
        is_old = facts.st_mtime < time.time() - _ABANDONED_AFTER_S
        if is_old and pid.isdigit() and facts.st_uid == os.getuid() and not process_start_mark(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> str:
    """Return the folder for temporary files, or /tmp if its path is too long for Ray's sockets."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _MAX_TMPDIR_LENGTH else "/tmp"

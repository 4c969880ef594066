"""Keep Ray's own output off the terminal.

Workaround for Ray 2.60: its C++ writes to file descriptor 2 and its driver's Python to stdout, and no setting of Ray
stops either. It can go when `ray.init(log_to_driver=False)` silences both.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def silence_ray(*, unless: bool) -> Iterator[None]:
    """Discard stdout and file descriptor 2 inside the block; `sys.stderr` still reaches the terminal.

    Does nothing when `unless` is true. Runs in the driver, around everything that touches Ray.
    """
    if unless:
        yield
        return
    with contextlib.redirect_stdout(_open_devnull()), _discard_descriptor_2():
        yield


@functools.cache
def _open_devnull() -> TextIO:
    """Return one /dev/null for the whole process.

    Ray's colorama keeps the stdout it finds and writes to it once more when Python ends, so the file stays open until
    then. Exit handlers run last in, first out: this one is registered before Ray's own, and runs after them.
    """
    devnull = open(os.devnull, "w")  # noqa: SIM115
    atexit.register(devnull.close)
    return devnull


@contextlib.contextmanager
def _discard_descriptor_2() -> Iterator[None]:
    if not _is_descriptor_2(sys.stderr):
        yield
        return
    sys.stderr.flush()
    saved_descriptor = os.dup(2)
    saved_stderr = sys.stderr
    os.dup2(_open_devnull().fileno(), 2)
    # This copy is never closed: loggers that are set up inside the block keep it.
    sys.stderr = open(os.dup(saved_descriptor), "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    try:
        yield
    finally:
        sys.stderr = saved_stderr
        os.dup2(saved_descriptor, 2)
        os.close(saved_descriptor)


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False

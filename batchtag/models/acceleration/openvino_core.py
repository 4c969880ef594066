"""OpenVINO itself: silent, and begun once in a process. Importable without it and without torch."""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

_ONE_AT_A_TIME = threading.Lock()


def quiet_openvino() -> Any:
    """The library, silent: by itself it tells its makers of every import and every translation, unless opted out."""
    spoken = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # so its import fails, and a stub is used
    try:
        import openvino
    finally:
        if spoken is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = spoken
    return openvino


def the_core() -> Any:
    """The `openvino.Core` of this process, which never ends.

    Each Core gives its thread a stack for signals, and when it ends brings back the one before it (OpenVINO 2026.4.1),
    though that one's memory may be gone: the next signal that Python has a handler for then ended the process, without
    a word.
    """
    with _ONE_AT_A_TIME:
        return _core()


@cache
def _core() -> Any:
    return quiet_openvino().Core()

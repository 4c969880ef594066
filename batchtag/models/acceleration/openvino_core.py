"""OpenVINO itself: imported without its telemetry, and started once per process. Importable without it and torch.

Both functions work around OpenVINO 2026.4. `import_openvino` can become a plain import when importing OpenVINO sends
nothing, or when a setting turns that off. `shared_core` can go when a `Core` that ends leaves the signal stack of its
thread alone.
"""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

_CORE_LOCK = threading.Lock()
"""Held while the core is created, so that two threads do not create two."""


def import_openvino() -> Any:
    """Return the module, without telemetry: by default it reports every import and every translation to its makers."""
    telemetry = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import fails, and OpenVINO uses a stub
    try:
        import openvino
    finally:
        if telemetry is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = telemetry
    return openvino


def shared_core() -> Any:
    """Return the `openvino.Core` of this process, which is never destroyed.

    Each Core gives its thread a stack for signals. When it is destroyed, it restores the stack that was there before
    (OpenVINO 2026.4.1), although that memory may have been freed. The next signal with a Python handler then ended the
    process without a message.
    """
    with _CORE_LOCK:
        return _create_core()


@cache
def _create_core() -> Any:
    return import_openvino().Core()

"""torchvision itself, without TorchDynamo: more than a second of a core in every worker's start, and nobody compiles.

torchvision 0.29 takes one name of it, `is_compile_supported`, which RoI align calls where it must be deterministic on a
GPU, and marks one function (`tv_tensors.wrap`) as not to be compiled, both while it is imported. Meanwhile the name is
a function that looks for the real one when it is called, and the mark is none. Where torchvision comes to want more, it
gets the real thing, and nothing is saved.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

_UTILS = "torch._dynamo.utils"
_ONE_AT_A_TIME = threading.Lock()


def import_torchvision() -> None:
    """Import torchvision and its transforms, unless it, or TorchDynamo, is there. Nothing else may import it before."""
    import torch

    with _ONE_AT_A_TIME:
        if "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules:
            _import(torch.compiler)


def _import(compiler: Any) -> None:
    stand_in: Any = ModuleType(_UTILS)
    stand_in.is_compile_supported = _is_compile_supported
    stand_in.__getattr__ = _real_name
    disable = compiler.disable
    sys.modules[_UTILS] = stand_in
    compiler.disable = lambda fn=None, *args, **kwargs: fn if callable(fn) else disable(fn, *args, **kwargs)
    try:
        importlib.import_module("torchvision.transforms.v2")
    finally:
        compiler.disable = disable
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]


def _is_compile_supported(device_type: str) -> bool:
    found: bool = _real_name("is_compile_supported")(device_type)
    return found


def _real_name(name: str) -> Any:
    """What a name is in TorchDynamo's own module, also while the other stands in for it."""
    if name.startswith("__"):
        raise AttributeError(name)  # of those who look at every module there is
    there = sys.modules.get(_UTILS)
    if there is not None and there.__spec__ is None:
        del sys.modules[_UTILS]
    return getattr(importlib.import_module(_UTILS), name)

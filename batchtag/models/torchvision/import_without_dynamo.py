"""Workaround: import torchvision without TorchDynamo, which takes more than a second of a core in every worker's start.

Nothing here compiles with it. torchvision 0.29 uses TorchDynamo twice while it is imported. It takes one name,
`is_compile_supported`, which RoI align calls where it must be deterministic on a GPU; and it marks one function
(`tv_tensors.wrap`) as not to be compiled. During the import that name is a function that imports the real one when it
is called, and marking does nothing. If torchvision comes to use more, it gets the real module, and nothing is saved.
This module can go when torchvision imports TorchDynamo only where it uses it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

_DYNAMO_UTILS = "torch._dynamo.utils"
_IMPORT_LOCK = threading.Lock()
"""Held while modules are replaced, so that two threads do not do it at once."""


def import_torchvision() -> None:
    """Import torchvision and its transforms, unless torchvision or TorchDynamo is imported already.

    Nothing else may import torchvision before. Runs in workers.
    """
    import torch

    with _IMPORT_LOCK:
        if "torchvision" not in sys.modules and "torch._dynamo" not in sys.modules:
            _import_with_stand_in(torch.compiler)


def _import_with_stand_in(compiler: Any) -> None:
    stand_in: Any = ModuleType(_DYNAMO_UTILS)
    stand_in.is_compile_supported = _is_compile_supported
    stand_in.__getattr__ = _get_real_name
    disable = compiler.disable
    sys.modules[_DYNAMO_UTILS] = stand_in
    compiler.disable = lambda fn=None, *args, **kwargs: fn if callable(fn) else disable(fn, *args, **kwargs)
    try:
        importlib.import_module("torchvision.transforms.v2")
    finally:
        compiler.disable = disable
        if sys.modules.get(_DYNAMO_UTILS) is stand_in:
            del sys.modules[_DYNAMO_UTILS]


def _is_compile_supported(device_type: str) -> bool:
    answer: bool = _get_real_name("is_compile_supported")(device_type)
    return answer


def _get_real_name(name: str) -> Any:
    """Return what a name is in TorchDynamo's own module, also while the stand-in is in its place."""
    if name.startswith("__"):
        raise AttributeError(name)  # asked for by tools that inspect every module
    module = sys.modules.get(_DYNAMO_UTILS)
    if module is not None and module.__spec__ is None:
        del sys.modules[_DYNAMO_UTILS]
    return getattr(importlib.import_module(_DYNAMO_UTILS), name)

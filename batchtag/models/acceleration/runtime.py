"""What networks compute with: the device, the engine on it, and how many images at a time.

On CPUs an image is one thread's work from its pixels to its tags, and as many threads look as there are cores: threads
that share one convolution wait for one another at its end, and for the decoder's threads in between. Nothing is padded
or batched beside a neighbour then. On a GPU one thread looks at batches. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeVar

from batchtag.errors import UsageError

Engine = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16", "float16"]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a model is to compute. `batch_size` is how many images share a forward pass at most; None: as suits."""

    device: str = "cpu"
    engine: Engine = "torch"
    threads: int = 1
    """On CPUs: how many images are looked at at a time, each by one thread. With 1, torch's own threads share one."""
    precision: Precision = "float32"
    """What networks compute in."""
    batch_size: int | None = None
    """A detector that looks at images side by side (`has_lanes`) takes each alone, whatever this says."""

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def has_lanes(self) -> bool:
        """Whether images are looked at side by side."""
        return self.threads > 1 and not self.on_gpu


def engine_on(device: str, *, asked: Literal["auto", "torch", "openvino"] = "auto") -> Engine:
    """The engine for a device: by default OpenVINO on CPUs where it is installed. Raises UsageError for what cannot be.

    Measured on one core of an EPYC: mobilenet_v3_large 14.1 ms an image in torch and 5.9 in OpenVINO, resnet50 112 and
    79, fasterrcnn_resnet50_fpn_v2 8.0 s and 6.1 s; large convolutions took the direct way then (`winograd`).
    """
    on_cpu = not device.startswith("cuda")
    if asked == "auto":
        return "openvino" if on_cpu and has_openvino() else "torch"
    if asked == "openvino" and not on_cpu:
        raise UsageError("compute.engine is 'openvino', which computes on CPUs, and compute.device is 'cuda'")
    if asked == "openvino" and not has_openvino():
        raise UsageError("compute.engine is 'openvino', which is not installed: pip install 'batchtag[openvino]'")
    return asked


def precision_on(device: str, engine: Engine, *, asked: Precision) -> Precision:
    """What was asked, where the device and the engine have it; whether a card has bfloat16 is seen in the worker.

    Raises UsageError for what cannot be. On CPUs bfloat16 is there to be tried, and slower than float32 on most.
    """
    if asked == "float16" and not device.startswith("cuda"):
        raise UsageError(
            "compute.precision is 'float16', which only GPUs compute in, and compute.device is 'cpu' (or no GPU is "
            "there); use 'float32'"
        )
    if asked in ("float16", "bfloat16") and engine == "openvino":
        raise UsageError(
            f"compute.precision is {asked!r}, and OpenVINO computes in float32 here; use 'float32', or compute.engine "
            "'torch'"
        )
    return asked


def has_openvino() -> bool:
    """Whether it is installed."""
    return find_spec("openvino") is not None


class Lanes:
    """Threads that do a model's work side by side; torch uses one thread in each. Runs in the worker."""

    def __init__(self, runtime: Runtime) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if runtime.has_lanes:
            self._pool = ThreadPoolExecutor(runtime.threads, thread_name_prefix="look", initializer=_one_thread)

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`call` of each item, in order. Raises what the first of them raised."""
        return list(self._pool.map(call, items)) if self._pool else [call(item) for item in items]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)

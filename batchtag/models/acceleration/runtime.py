"""The runtime of a model: the device, the inference engine on it, and how many images are computed at a time.

On CPUs one thread does all the work on an image, from its pixels to its tags, and as many such threads run side by side
as there are cores. Threads that share one convolution would wait for one another at its end, and for the threads of the
decoder in between. Images are then neither padded nor batched with others. On a GPU one thread computes batches.
Importable without torch.
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
    """How a model computes."""

    device: str = "cpu"
    engine: Engine = "torch"
    threads: int = 1
    """On CPUs: the number of images that are computed at a time, each by one thread. With 1, torch's own threads share
    the work on one image."""
    precision: Precision = "float32"
    """The number format of the networks."""
    batch_size: int | None = None
    """Largest number of images that share a forward pass; None for the model's own choice. A detector with inference
    threads (`has_inference_threads`) computes each image alone, whatever this says."""

    @property
    def is_on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def has_inference_threads(self) -> bool:
        """Whether several threads compute images side by side."""
        return self.threads > 1 and not self.is_on_gpu


def choose_engine(device: str, *, requested: Literal["auto", "torch", "openvino"] = "auto") -> Engine:
    """Return the inference engine for a device; by default OpenVINO on CPUs where it is installed.

    Raises UsageError if the requested engine cannot run there. Measured on one core of an EPYC: mobilenet_v3_large
    14.1 ms for an image in torch and 5.9 ms in OpenVINO, resnet50 112 and 79 ms, fasterrcnn_resnet50_fpn_v2 8.0 and
    6.1 s; that was before large convolutions were replaced (`winograd`).
    """
    is_cpu = not device.startswith("cuda")
    if requested == "auto":
        return "openvino" if is_cpu and has_openvino() else "torch"
    if requested == "openvino" and not is_cpu:
        raise UsageError(
            "compute.engine is 'openvino', which runs on CPUs only, but compute.device is 'cuda'; use 'torch'"
        )
    if requested == "openvino" and not has_openvino():
        raise UsageError("compute.engine is 'openvino', which is not installed: pip install 'batchtag[openvino]'")
    return requested


def check_precision(device: str, engine: Engine, *, requested: Precision) -> Precision:
    """Return the requested precision if the device and the engine have it.

    Raises UsageError if not. Whether a GPU has bfloat16 is checked in the worker (`resolve_dtype`). bfloat16 works on
    CPUs, but is slower than float32 on most.
    """
    if requested == "float16" and not device.startswith("cuda"):
        raise UsageError(
            "compute.precision is 'float16', which only GPUs compute in, but compute.device is 'cpu' (or the machine "
            "has no GPU); use 'float32'"
        )
    if requested in ("float16", "bfloat16") and engine == "openvino":
        raise UsageError(
            f"compute.precision is {requested!r}, but OpenVINO computes in float32 here; use 'float32', or set "
            "compute.engine to 'torch'"
        )
    return requested


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


class InferenceThreads:
    """Threads that compute a model's images side by side, each with one thread of torch. Used in the worker.

    If the runtime has no inference threads, the work is done in the calling thread.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if runtime.has_inference_threads:
            self._pool = ThreadPoolExecutor(
                runtime.threads, thread_name_prefix="inference", initializer=_use_one_torch_thread
            )

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return the results of `call` for each item, in order. Raises the exception of the first item that failed."""
        return list(self._pool.map(call, items)) if self._pool else [call(item) for item in items]


def _use_one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)

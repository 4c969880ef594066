"""The limits of the device: a matrix product, the arithmetic of a network alone, and decoding."""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from batchtag.decoding.decoder import DecodeRules
from batchtag.models.acceleration.batched_rcnn import prepare_batch
from batchtag.models.acceleration.bn_folding import fold_batch_norms
from batchtag.models.acceleration.half_precision import reduce_classifier, reduce_detector
from batchtag.models.acceleration.submodules import replace_parts
from benchmarks.decoding import decode_readable
from benchmarks.on_gpu.methods import Subject


def wait_for_device(device: str) -> None:
    """Wait until the device has finished all its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measure_rate(call: Callable[[], object], *, device: str, seconds: float) -> float:
    """Return calls per second, after two calls to warm up."""
    for _ in range(2):
        call()
    wait_for_device(device)
    calls, started_at = 0, time.perf_counter()
    while not calls or time.perf_counter() - started_at < seconds:
        call()
        calls += 1
        if calls % 8 == 0:
            wait_for_device(device)  # without this the rate of submitting work would be measured
    wait_for_device(device)
    return calls / (time.perf_counter() - started_at)


def measure_matrix_product(device: str, dtype: torch.dtype, *, side: int, seconds: float) -> float:
    """Return FLOP/s of a square matrix product: the best of three runs."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return max(2 * side**3 * measure_rate(lambda: a @ b, device=device, seconds=seconds) for _ in range(3))


def count_flops(subject: Subject, image: Tensor, *, device: str) -> float:
    """Return the FLOPs of the published network for one image (3, H, W) uint8. Pooling and sorting count nothing."""
    network = subject.network.to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if subject.preprocessing is None:
            network([image.to(device) / 255])
        else:
            network(subject.preprocessing.normalize(subject.preprocessing.crop_centre(image.to(device))[None]))
    subject.network.to("cpu")
    return float(counter.get_total_flops())


def measure_own_graph(
    subject: Subject, image: Tensor, *, device: str, dtype: torch.dtype, batch_sizes: Sequence[int], seconds: float
) -> tuple[float, int]:
    """Return images/s of the network's arithmetic alone, and the batch size that gives it.

    Batch norms are folded, tensors are channels-last and in `dtype`, and one CUDA graph runs it all. For a detector the
    arithmetic is backbone, proposal head and box head (for all the proposals that it may have) on inputs that are on
    the device already: nothing is resized, sorted, suppressed or copied back.
    """
    best = (0.0, 0)
    make_inputs, run = _make_bare_network(subject, image, device=device, dtype=dtype)
    benchmark_before, torch.backends.cudnn.benchmark = (
        torch.backends.cudnn.benchmark,
        True,
    )  # shapes do not change: find the best kernels
    try:
        for size in batch_sizes:
            inputs = make_inputs(size)
            replay = _capture_graph(lambda inputs=inputs: run(inputs), device=device)  # type: ignore[misc]
            best = max(best, (size * measure_rate(replay, device=device, seconds=seconds), size))
    except torch.OutOfMemoryError:
        pass  # the batch before was the largest that fits
    finally:
        torch.backends.cudnn.benchmark = benchmark_before
    return best


def _make_bare_network(
    subject: Subject, image: Tensor, *, device: str, dtype: torch.dtype
) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """Return a function that makes the inputs of a batch, and one that runs the network on them."""
    network = copy.deepcopy(subject.network).to("cpu")
    if subject.preprocessing is not None:
        example = subject.preprocessing.normalize(subject.preprocessing.crop_centre(image)[None])
        fold_batch_norms(network, example)
        classifier = reduce_classifier(network.to(device), example.to(device), dtype, num_labels=subject.num_labels)

        def make_images(size: int) -> Tensor:
            batch = example.to(device, dtype).repeat(size, 1, 1, 1)
            return batch.contiguous(memory_format=torch.channels_last)

        return make_images, classifier
    replace_parts(network, fold_batch_norms)
    network.to(device)
    reduce_detector(network, dtype, features=dtype)

    def make_inputs(size: int) -> tuple[Tensor, Tensor]:
        batch = prepare_batch(network.transform, [image.to(device)] * size)[0]
        with torch.inference_mode():
            channels = next(iter(network.backbone(batch[:1]).values())).shape[1]
        side = network.roi_heads.box_roi_pool.output_size
        pooled = torch.rand(size * network.rpn.post_nms_top_n(), channels, *side, device=device)
        return tuple(t.to(dtype, memory_format=torch.channels_last) for t in (batch, pooled))  # type: ignore[return-value]

    def run(inputs: tuple[Tensor, Tensor]) -> None:
        batch, pooled = inputs
        network.rpn.head(list(network.backbone(batch).values()))
        network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))

    return make_inputs, run


def _capture_graph(call: Callable[[], Any], *, device: str) -> Callable[[], object]:
    """Return the call as a CUDA graph if that is possible, else the call itself."""

    def run_call() -> None:
        with torch.inference_mode():
            call()

    if not device.startswith("cuda"):
        return run_call
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            run_call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run_call()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        torch.cuda.synchronize(device)
        return run_call
    return graph.replay


def measure_busy_share(call: Callable[[], object], *, device: str) -> float:
    """Return the share of a call's time in which the device computed or copied, from torch's profiler.

    It is the union of all kernels and copies by the device's own clock. Recording them makes the host a little slower,
    so the share is a little too low. On a CPU it is the share of torch's operators.
    """
    on_gpu = device.startswith("cuda")
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    call()
    wait_for_device(device)
    with warnings.catch_warnings(), torch.profiler.profile(activities=[activity]) as profiler:
        warnings.simplefilter("ignore")  # the warning that there is only one cycle
        started_at = time.perf_counter()
        call()
        wait_for_device(device)
        seconds = time.perf_counter() - started_at
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type.name == activity.name
    ]
    return union_length(spans) / 1e6 / seconds


def union_length(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals (start, end)."""
    total, covered_to = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return total


def measure_cpu_decoding(blobs: Sequence[bytes], *, threads: int, seconds: float) -> float:
    """Return images/s of batchtag's decoder in full, in that many threads."""
    rules = DecodeRules()
    with ThreadPoolExecutor(threads) as pool:
        call = lambda: list(pool.map(lambda blob: decode_readable(blob, rules=rules), blobs))  # noqa: E731
        return len(blobs) * measure_rate(call, device="cpu", seconds=seconds)


def measure_gpu_decoding(blobs: Sequence[bytes], *, device: str, seconds: float) -> float:
    """Return images/s of nvJPEG in full, all images in one call of torchvision's `decode_jpeg`; 0 if it cannot.

    torchvision may have been built without nvJPEG, and nvJPEG does not accept every JPEG.
    """
    from torchvision.io import decode_jpeg

    tensors = [torch.frombuffer(bytearray(blob), dtype=torch.uint8) for blob in blobs]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torchvision 0.29 deprecates its decoders in favour of TorchCodec
        call: Callable[[], object] = lambda: decode_jpeg(tensors, device=device)  # noqa: E731
        try:
            return len(blobs) * measure_rate(call, device=device, seconds=seconds)
        except RuntimeError as error:
            print(f"nvJPEG: {' '.join(str(error).split())}", file=sys.stderr)
            return 0.0

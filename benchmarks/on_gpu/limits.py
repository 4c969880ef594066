"""What the device could do at best: a matrix product, a network's bare arithmetic, and decoding beside it."""

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

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.models.acceleration.batched_rcnn import prepared
from batchtag.models.acceleration.bn_folding import fold_batch_norms
from batchtag.models.acceleration.half_precision import reduce_classifier, reduce_detector
from batchtag.models.acceleration.submodules import replace_parts
from benchmarks.on_gpu.ways import Subject


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def per_second(call: Callable[[], object], *, device: str, seconds: float) -> float:
    """Calls a second, after two to warm up."""
    for _ in range(2):
        call()
    wait(device)
    calls, began = 0, time.perf_counter()
    while not calls or time.perf_counter() - began < seconds:
        call()
        calls += 1
        if calls % 8 == 0:
            wait(device)  # the clock would else measure how fast work is handed over
    wait(device)
    return calls / (time.perf_counter() - began)


def matrix_product(device: str, dtype: torch.dtype, *, side: int, seconds: float) -> float:
    """FLOP/s of a square product, at the best of three runs."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return max(2 * side**3 * per_second(lambda: a @ b, device=device, seconds=seconds) for _ in range(3))


def flops(one: Subject, image: Tensor, *, device: str) -> float:
    """Of one image (3, H, W) uint8, counted while the published network looks at it; pooling and sorting are none."""
    network = one.network.to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if one.preprocessing is None:
            network([image.to(device) / 255])
        else:
            network(one.preprocessing.normalised(one.preprocessing.centre(image.to(device))[None]))
    one.network.to("cpu")
    return float(counter.get_total_flops())


def own_graph(
    one: Subject, image: Tensor, *, device: str, dtype: torch.dtype, batch_sizes: Sequence[int], seconds: float
) -> tuple[float, int]:
    """Images/s of the bare arithmetic, and at which batch size: folded, channels-last, in `dtype`, as one CUDA graph.

    A detector's are its backbone, proposal head and box head (of all the proposals it may have), on inputs that lie
    ready: nothing is resized, sorted, suppressed or copied back.
    """
    best = (0.0, 0)
    network, run = _bare(one, image, device=device, dtype=dtype)
    searched, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True  # the shapes stay: the best kernels
    try:
        for size in batch_sizes:
            inputs = network(size)
            replay = _captured(lambda inputs=inputs: run(inputs), device=device)  # type: ignore[misc]
            best = max(best, (size * per_second(replay, device=device, seconds=seconds), size))
    except torch.OutOfMemoryError:
        pass  # the batch before was the largest
    finally:
        torch.backends.cudnn.benchmark = searched
    return best


def _bare(
    one: Subject, image: Tensor, *, device: str, dtype: torch.dtype
) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """How to make inputs for a batch size, and what to do with them."""
    network = copy.deepcopy(one.network).to("cpu")
    if one.preprocessing is not None:
        example = one.preprocessing.normalised(one.preprocessing.centre(image)[None])
        fold_batch_norms(network, example)
        made = reduce_classifier(network.to(device), example.to(device), dtype, num_labels=one.num_labels)

        def images(size: int) -> Tensor:
            batch = example.to(device, dtype).repeat(size, 1, 1, 1)
            return batch.contiguous(memory_format=torch.channels_last)

        return images, made
    replace_parts(network, fold_batch_norms)
    network.to(device)
    reduce_detector(network, dtype, features=dtype)

    def inputs(size: int) -> tuple[Tensor, Tensor]:
        batch = prepared(network.transform, [image.to(device)] * size)[0]
        with torch.inference_mode():
            channels = next(iter(network.backbone(batch[:1]).values())).shape[1]
        side = network.roi_heads.box_roi_pool.output_size
        pooled = torch.rand(size * network.rpn.post_nms_top_n(), channels, *side, device=device)
        return tuple(t.to(dtype, memory_format=torch.channels_last) for t in (batch, pooled))  # type: ignore[return-value]

    def run(given: tuple[Tensor, Tensor]) -> None:
        network.rpn.head(list(network.backbone(given[0]).values()))
        network.roi_heads.box_predictor(network.roi_heads.box_head(given[1]))

    return inputs, run


def _captured(call: Callable[[], Any], *, device: str) -> Callable[[], object]:
    """The call as a CUDA graph, where that is possible; else as it is."""

    def plain() -> None:
        with torch.inference_mode():
            call()

    if not device.startswith("cuda"):
        return plain
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            plain()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            plain()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        torch.cuda.synchronize(device)
        return plain
    return graph.replay


def busy_share(call: Callable[[], object], *, device: str) -> float:
    """The share of the time of a call in which the device computed or copied, from torch's profiler.

    It counts the union of all kernels and copies, as the device's own clock saw them. Recording them makes the host a
    little slower, so the share is rather too low. On a CPU it is the share of torch's operators.
    """
    on_gpu = device.startswith("cuda")
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    call()
    wait(device)
    with warnings.catch_warnings(), torch.profiler.profile(activities=[activity]) as profiler:
        warnings.simplefilter("ignore")  # that there is only one cycle
        began = time.perf_counter()
        call()
        wait(device)
        seconds = time.perf_counter() - began
    spans = [
        (one.time_range.start, one.time_range.end)
        for one in profiler.events() or ()
        if one.device_type.name == activity.name
    ]
    return covered(spans) / 1e6 / seconds


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, upto = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, upto))
        upto = max(upto, end)
    return total


def decode_on_cpu(blobs: Sequence[bytes], *, threads: int, seconds: float) -> float:
    """Whole images a second by the line's own decoder, in so many threads."""
    rules = DecodeRules()
    with ThreadPoolExecutor(threads) as pool:
        call = lambda: list(pool.map(lambda blob: decode(blob, rules=rules), blobs))  # noqa: E731
        return len(blobs) * per_second(call, device="cpu", seconds=seconds)


def decode_on_gpu(blobs: Sequence[bytes], *, device: str, seconds: float) -> float:
    """Whole images a second by nvJPEG, all of them in one call of torchvision's `decode_jpeg`; 0 where it cannot.

    A torchvision may have been built without it, and it does not take every JPEG.
    """
    from torchvision.io import decode_jpeg

    tensors = [torch.frombuffer(bytearray(blob), dtype=torch.uint8) for blob in blobs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 hands its decoders over to TorchCodec
        call: Callable[[], object] = lambda: decode_jpeg(tensors, device=device)  # noqa: E731
        try:
            return len(blobs) * per_second(call, device=device, seconds=seconds)
        except RuntimeError as error:
            print(f"nvJPEG: {' '.join(str(error).split())}", file=sys.stderr)
            return 0.0

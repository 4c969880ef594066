"""The limits of this machine: the forward pass alone, and libjpeg-turbo alone, each on all cores.

    python -m benchmarks.speed.limits TASK.json        prints JSON

The limit of a model is the same network on tensors in memory, in torch and in the engine that `batchtag run` uses: the
best of some batch sizes, with all cores on one pass and with one core for each pass. The images of a detector are
already resized and padded; they are real, so that it has boxes to sort, and the same for both. The limit of decoding is
measured on bytes in memory, twice: in full, as the peers need it (torchvision.io), and at the scale at which batchtag
decodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import torch
from pyarrow.fs import S3FileSystem
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from batchtag.config.model import CheckpointSpec
from batchtag.decoding.decoder import DecodeRules
from batchtag.models import Runtime, load, prepare
from batchtag.models.acceleration.runtime import choose_engine
from batchtag.models.classifier import Classifier
from batchtag.system import available_cores
from benchmarks.decoding import decode_readable
from benchmarks.speed.peer_models import PeerModel, load_network, preprocess, read_model
from benchmarks.speed.peers.task import Task, read_task_argument

_NUM_BLOBS = 48
_MEASURE_S = 1.0
"""Seconds of calls for one rate."""
_LONG_CALL_S = 5.0
"""Seconds of a first call that is a rate by itself."""
_SLOW_IMAGES_PER_S = 1.0
"""Rate below which no second method is tried, because it would take minutes."""
_LONG_PASS_S = 0.4
"""Seconds of a forward pass that more images cannot make more efficient."""
_SLOW_ARCHITECTURES = ("fasterrcnn_resnet50_fpn_v2",)
"""Architectures that take seconds for an image: one image for each core must be enough."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Images/s on all cores: the forward pass of each model in torch and in our engine, and decoding in full and
    scaled."""

    models: dict[str, float]
    engine: dict[str, float]
    decode_full: float
    decode_line: float

    @property
    def bare_s(self) -> float:
        """Seconds of the forward passes of all models for one image."""
        return sum(1 / rate for rate in self.models.values())

    @property
    def line(self) -> float:
        """The highest rate of a pipeline on CPUs: models and decoding share the cores, so their times add up."""
        return 1 / (self.bare_s + 1 / self.decode_line)

    @property
    def line_of_engine(self) -> float:
        """The same with the models in our engine."""
        return 1 / (sum(1 / rate for rate in self.engine.values()) + 1 / self.decode_line)


def measure_limits(task: Task, *, cores: int) -> Limits:
    """Measure the limits for the first images of a task."""
    blobs = _fetch_blobs(task)
    decoded = [decode_full(blob) for blob in blobs[:16]]
    models, engine = {}, {}
    for folder in task.models:
        model = read_model(folder)
        sample = decoded[: _sample_size(model, cores)]
        inputs = [preprocess(model, image) for image in sample]
        measure = _measure_classifier if model.task == "classify" else _measure_detector
        models[model.architecture] = measure(load_network(model), inputs, cores)
        engine[model.architecture] = _measure_our_engine(folder, sample, cores)
    resolutions = [prepare(CheckpointSpec(uri=folder)).input_resolution for folder in task.models]
    rules = DecodeRules()
    return Limits(
        models=models,
        engine=engine,
        decode_full=_measure_decoding(blobs, decode_full, cores),
        decode_line=_measure_decoding(
            blobs, lambda blob: decode_readable(blob, rules=rules, resolutions=resolutions), cores
        ),
    )


def _sample_size(model: PeerModel, cores: int) -> int:
    """Return the number of images for a limit. Each runs three times or more, in torch and in our engine."""
    if model.architecture in _SLOW_ARCHITECTURES:
        return cores
    return 16 if model.task == "classify" else 8


def _fetch_blobs(task: Task) -> list[bytes]:
    files = S3FileSystem(endpoint_override=task.address, scheme="http")
    blobs = []
    for key in task.keys[:_NUM_BLOBS]:
        with files.open_input_stream(f"{task.bucket}/{key}") as stream:
            blobs.append(stream.read())
    return blobs


def decode_full(blob: bytes) -> Tensor:
    """Decode a JPEG in full by libjpeg-turbo: (3, H, W) uint8 RGB."""
    image: Tensor = decode_image(torch.frombuffer(bytearray(blob), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return image


def _measure_classifier(network: Any, inputs: Sequence[Tensor], cores: int) -> float:
    """Return the best rate of some batch sizes, with all cores on one batch and with one core for each batch."""
    best = 0.0
    for size in (1, 4, 16):
        batch = torch.stack([inputs[i % len(inputs)] for i in range(size)])
        batch = batch.to(memory_format=torch.channels_last)
        best = max(
            best,
            size * _rate_on_all_cores(network, [batch], cores),
            size * cores * _rate_on_single_cores(network, [batch] * cores, cores),
        )
        if size / best > _LONG_PASS_S:
            break  # larger batches cannot be more efficient
    return best


def _measure_detector(network: Any, inputs: Sequence[Tensor], cores: int) -> float:
    """Return the rate of backbone, proposals and boxes, one image in each pass, on images that are resized already."""
    ready = [network.transform([image])[0] for image in inputs]
    best = len(ready) * _rate_on_single_cores(lambda image: _run_detector(network, [image]), ready, cores)
    if best < _SLOW_IMAGES_PER_S:
        return best
    return max(best, len(ready) * _rate_on_all_cores(lambda image: _run_detector(network, [image]), ready, cores))


def _rate_on_all_cores(call: Callable[[Any], object], items: Sequence[Any], cores: int) -> float:
    """Return how often in a second all items are done, one after another, each on all cores."""
    torch.set_num_threads(cores)
    return _calls_per_s(lambda: [call(item) for item in items])


def _rate_on_single_cores(call: Callable[[Any], object], items: Sequence[Any], cores: int) -> float:
    """Return how often in a second all items are done, as many at a time as there are cores, each on one core."""

    def run_item(item: Any) -> object:
        with torch.inference_mode():
            return call(item)

    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return _calls_per_s(lambda: list(pool.map(run_item, items)))


def _run_detector(network: Any, ready: Sequence[Any]) -> None:
    """Run a detector on images that its transform has resized, without the final rescaling."""
    images = type(ready[0])(
        torch.cat([image.tensors for image in ready]), [size for image in ready for size in image.image_sizes]
    )
    features = network.backbone(images.tensors)
    proposals, _ = network.rpn(images, features)
    network.roi_heads(features, proposals, images.image_sizes)


def _measure_our_engine(folder: str, decoded: Sequence[Tensor], cores: int) -> float:
    """Return the rate of the networks of a run on tensors in memory, with one image (or a few) for each core."""
    runtime = Runtime(engine=choose_engine("cpu"), threads=cores)
    model: Any = load(CheckpointSpec(uri=folder), runtime=runtime)
    size = model.batch_size if isinstance(model, Classifier) else 1
    images = list(islice(cycle(decoded), max(len(decoded), size * cores)))  # work for every core

    def forward(ready: Any) -> None:
        with torch.inference_mode():
            model._network(ready) if isinstance(model, Classifier) else _run_detector(model._network, [ready])

    with torch.inference_mode():
        if isinstance(model, Classifier):
            centred = [model._preprocessing.crop_centre(image) for image in images]
            inputs = [torch.stack(centred[start : start + size]) for start in range(0, len(centred), size)]
        else:
            inputs = [model._network.transform([image.float().div(255)])[0] for image in images]
    return len(images) * _calls_per_s(lambda: model._threads.map(forward, inputs))


def _calls_per_s(call: Callable[[], object]) -> float:
    """Return calls per second, from at least two calls after a first one, which counts alone if it takes 5 s or
    more."""
    with torch.inference_mode():
        started_at = time.perf_counter()
        call()
        first_s = time.perf_counter() - started_at
        if first_s > _LONG_CALL_S:
            return 1 / first_s
        calls, started_at = 0, time.perf_counter()
        while calls < 2 or time.perf_counter() - started_at < _MEASURE_S:
            call()
            calls += 1
        return calls / (time.perf_counter() - started_at)


def _measure_decoding(blobs: Sequence[bytes], decode: Callable[[bytes], object], cores: int) -> float:
    """Return images/s of a decoder with one thread for each core. Decoders release the GIL."""
    with ThreadPoolExecutor(cores) as pool:
        rounds, started_at = 0, time.perf_counter()
        while time.perf_counter() - started_at < _MEASURE_S:
            list(pool.map(decode, blobs))
            rounds += 1
        return rounds * len(blobs) / (time.perf_counter() - started_at)


if __name__ == "__main__":
    print(json.dumps(asdict(measure_limits(read_task_argument(), cores=available_cores()))))

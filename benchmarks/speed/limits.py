"""What the machine could do at best: the forward pass alone, and libjpeg-turbo alone. Each on all cores by itself.

    python -m benchmarks.speed.limits TASK.json        prints JSON

The model limit is the very network on tensors that lie ready, in torch and in the engine that `batchtag run` takes:
the best of some batch sizes, of all cores on one pass and of one core a pass. A detector's images are already resized
and padded, real ones so that it has boxes to sort, and the same ones for both. The decode limit is measured on bytes in
memory, twice: every pixel, as the peers need it (torchvision.io), and at the scale that the line decodes to.
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
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.models import Runtime, load, prepare
from batchtag.models.acceleration.runtime import engine_on
from batchtag.models.classifier import Classifier
from batchtag.system import available_cores
from benchmarks.speed.looking import described, network_of, prepared
from benchmarks.speed.peers.task import Task, given

_SAMPLE = 48
_MEASURED_S, _LONG_S = 1.0, 5.0
_SLOW = 1.0
"""Images a second below which a second way is not tried: it would take minutes."""
_LONG_PASS_S = 0.4
"""A forward pass of so long gains nothing from more images."""
_SLOW_ONES = ("fasterrcnn_resnet50_fpn_v2",)
"""Seconds an image: one a core has to do."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Images/s on all cores: each model's bare forward pass in torch and in our engine, and both ways of decoding."""

    models: dict[str, float]
    engine: dict[str, float]
    decode_full: float
    decode_line: float

    @property
    def bare_s(self) -> float:
        """Seconds of all models for one image."""
        return sum(1 / rate for rate in self.models.values())

    @property
    def line(self) -> float:
        """What a line on CPUs can reach at most: models and decoding share the cores, so their times add up."""
        return 1 / (self.bare_s + 1 / self.decode_line)

    @property
    def line_of_engine(self) -> float:
        """The same with the models as our engine computes them."""
        return 1 / (sum(1 / rate for rate in self.engine.values()) + 1 / self.decode_line)


def measure(task: Task, *, cores: int) -> Limits:
    """The limits for the first images of a task."""
    blobs = _fetched(task)
    decoded = [pixels(blob) for blob in blobs[:16]]
    models, engine = {}, {}
    for folder in task.models:
        model = described(folder)
        some = decoded[: _sample_of(model, cores)]
        inputs = [prepared(model, image) for image in some]
        forward = _classifying if model.task == "classify" else _detecting
        models[model.architecture] = forward(network_of(model), inputs, cores)
        engine[model.architecture] = _in_our_engine(folder, some, cores)
    input_resolutions = [prepare(CheckpointSpec(uri=folder)).input_resolution for folder in task.models]
    rules = DecodeRules()
    return Limits(
        models=models,
        engine=engine,
        decode_full=_decoding(blobs, pixels, cores),
        decode_line=_decoding(
            blobs, lambda blob: decode(blob, rules=rules, input_resolutions=input_resolutions), cores
        ),
    )


def _sample_of(model: Any, cores: int) -> int:
    """How many images a limit is measured on; every one is looked at three times or more, in torch and by us."""
    if model.architecture in _SLOW_ONES:
        return cores
    return 16 if model.task == "classify" else 8


def _fetched(task: Task) -> list[bytes]:
    files = S3FileSystem(endpoint_override=task.address, scheme="http")
    blobs = []
    for key in task.keys[:_SAMPLE]:
        with files.open_input_stream(f"{task.bucket}/{key}") as stream:
            blobs.append(stream.read())
    return blobs


def pixels(blob: bytes) -> Tensor:
    """All of them, by libjpeg-turbo: (3, H, W) uint8."""
    image: Tensor = decode_image(torch.frombuffer(bytearray(blob), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return image


def _classifying(network: Any, inputs: Sequence[Tensor], cores: int) -> float:
    """The best of some batch sizes, on all cores at once and on one core each."""
    best = 0.0
    for size in (1, 4, 16):
        batch = torch.stack([inputs[i % len(inputs)] for i in range(size)])
        batch = batch.to(memory_format=torch.channels_last)
        best = max(
            best, size * _together(network, [batch], cores), size * cores * _apart(network, [batch] * cores, cores)
        )
        if size / best > _LONG_PASS_S:
            break  # it computes so long that larger batches save nothing
    return best


def _detecting(network: Any, inputs: Sequence[Tensor], cores: int) -> float:
    """Backbone, proposals and boxes, on images that are resized already, each by itself."""
    ready = [network.transform([image])[0] for image in inputs]
    best = len(ready) * _apart(lambda one: _bare(network, [one]), ready, cores)
    if best < _SLOW:
        return best
    return max(best, len(ready) * _together(lambda one: _bare(network, [one]), ready, cores))


def _together(call: Callable[[Any], object], items: Sequence[Any], cores: int) -> float:
    """How often a second all items are done, one after the other on all cores."""
    torch.set_num_threads(cores)
    return _per_second(lambda: [call(item) for item in items])


def _apart(call: Callable[[Any], object], items: Sequence[Any], cores: int) -> float:
    """How often a second all items are done, as many at a time as there are cores, each on one."""

    def one(item: Any) -> object:
        with torch.inference_mode():
            return call(item)

    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return _per_second(lambda: list(pool.map(one, items)))


def _bare(network: Any, ready: Sequence[Any]) -> None:
    images = type(ready[0])(
        torch.cat([one.tensors for one in ready]), [size for one in ready for size in one.image_sizes]
    )
    features = network.backbone(images.tensors)
    proposals, _ = network.rpn(images, features)
    network.roi_heads(features, proposals, images.image_sizes)


def _in_our_engine(folder: str, decoded: Sequence[Tensor], cores: int) -> float:
    """The parts that a run computes with, on tensors that lie ready; one image (or a few) a core."""
    runtime = Runtime(engine=engine_on("cpu"), threads=cores)
    model: Any = load(CheckpointSpec(uri=folder), runtime=runtime)
    size = model.batch_size if isinstance(model, Classifier) else 1
    images = list(islice(cycle(decoded), max(len(decoded), size * cores)))  # something for every core

    def forward(ready: Any) -> None:
        with torch.inference_mode():
            model._network(ready) if isinstance(model, Classifier) else _bare(model._network, [ready])

    with torch.inference_mode():
        if isinstance(model, Classifier):
            centred = [model._preprocessing.centre(image) for image in images]
            work = [torch.stack(centred[start : start + size]) for start in range(0, len(centred), size)]
        else:
            work = [model._network.transform([image.float().div(255)])[0] for image in images]
    return len(images) * _per_second(lambda: model._lanes.map(forward, work))


def _per_second(call: Callable[[], object]) -> float:
    """Calls a second, of at least two after one to warm up; where that takes more than 5 s, it is the answer."""
    with torch.inference_mode():
        began = time.perf_counter()
        call()
        first_s = time.perf_counter() - began
        if first_s > _LONG_S:
            return 1 / first_s
        calls, began = 0, time.perf_counter()
        while calls < 2 or time.perf_counter() - began < _MEASURED_S:
            call()
            calls += 1
        return calls / (time.perf_counter() - began)


def _decoding(blobs: Sequence[bytes], decoder: Callable[[bytes], object], cores: int) -> float:
    """Images a second, in as many threads as there are cores: the decoders let go of the GIL."""
    with ThreadPoolExecutor(cores) as pool:
        rounds, began = 0, time.perf_counter()
        while time.perf_counter() - began < _MEASURED_S:
            list(pool.map(decoder, blobs))
            rounds += 1
        return rounds * len(blobs) / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(given(), cores=available_cores()))))

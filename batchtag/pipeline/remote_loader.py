"""Images opened by other processes: the second shape of the line, for models that outrun the cores beside them.

A bundle goes out in chunks, to whatever has a CPU left (`openactors`: Ray actors, on nodes without a GPU too), and
comes back as decoded images in the order of the index, so that batches, parts and rows are those of the first shape. The
worker depends on nobody: the first images are opened here, a window at a time, while openers start; so is a chunk that
nobody can take or that is not there when it is wanted; and one whose opener is known to have died, perhaps of an image
in it, is opened here with care, decoding in a child. Knows nothing of Ray, nor of job files, which an opener would
import for nothing; what `concurrent.futures` has will do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan, Times, in_batches
from batchtag.storage import open_store
from batchtag.types import DecodedImage, ImageResult

log = logging.getLogger(__name__)
CHUNK_IMAGES = 32
"""Sending one off and taking it back costs the worker 2 ms."""
CHUNK_BYTES = 64 * 2**20
"""Pixels in a chunk, as the images before it tell; none goes out before one was seen."""
AHEAD_BYTES = 384 * 2**20
"""Pixels that wait in the object store for one of a worker's two bundles; what is opened here, `stream` bounds."""
GIVEN_UP_BELOW, JUDGED_CHUNKS = 0.5, 20
"""Where a smaller share of the last chunks came than that, openers are no help."""
PATIENCE_S, IMPATIENCE_S = 5.0, 0.1
"""So long a worker waits for the chunk that is next: the first if the last one came, the second if it did not."""
GAIN = 1.15
"""The other shape must promise so much more: going out costs processes, memory and copies."""
TRANSPORT = 0.9
"""Of what the arithmetic promises, what was measured (`python -m benchmarks.shapes`)."""
JUDGED_AFTER_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedChunk:
    """One chunk, opened: outcomes as they are then, the images of those that could be decoded.

    `times` is what the opener took since it last told, which may be of other chunks too.
    """

    outcomes: list[ImageResult]
    images: list[DecodedImage | None]
    times: Times


class DecodeWorkerDied(Exception):
    """The process that was opening a chunk is gone, or its decoder hangs."""


class DecodeTask(Protocol):
    """A chunk that is out; a `Future[DecodedChunk]` is one."""

    def result(self, timeout: float | None = None) -> DecodedChunk:
        """Raises TimeoutError when it is not there yet, DecodeWorkerDied when it will not come."""
        ...

    def cancel(self) -> object: ...


class DecodePool(Protocol):
    """Processes that open images for a worker."""

    def slots(self) -> int:
        """How many chunks they can have in hand for this worker as things are now, two each. 0: nobody is there."""
        ...

    def start(self) -> None:
        """Begin to start as many as there is room for. Returns at once."""
        ...

    def open(self, outcomes: list[ImageResult]) -> DecodeTask | None:
        """None: nobody can take it now."""
        ...

    def dismiss(self) -> None:
        """Let them all go, and their CPUs with them; whoever asks for `slots` again may have new ones."""
        ...


class ChunkOpener:
    """What an opener does. Safe to use from several threads."""

    def __init__(self, stream: ImageLoader) -> None:
        self._stream = stream
        self._told = Times()
        self._telling = threading.Lock()

    def open(self, outcomes: list[ImageResult]) -> DecodedChunk:
        """One chunk. Raises DecoderHung."""
        images = {
            sight.outcome.ref.position: sight.image for batch in self._stream.batches(outcomes) for sight in batch
        }
        with self._telling:
            now = self._stream.times()
            since, self._told = now.plus(self._told, sign=-1), now
        return DecodedChunk(outcomes=outcomes, images=[images.get(o.ref.position) for o in outcomes], times=since)


@dataclass(frozen=True, kw_only=True)
class DecodeWorkerPlan:
    """What an opener must know. Travels to it by pickle and is stored nowhere."""

    stream: LoadPlan
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)


class DecodeWorker:
    """`ChunkOpener` as a process of its own. `open` may be called from two threads at once."""

    def __init__(self, plan: DecodeWorkerPlan) -> None:
        stream = ImageLoader(plan.stream, store_for=lambda uri: open_store(uri, plan.source_options))
        self._opener = ChunkOpener(stream)
        self._hangs = False

    def ready(self) -> None:
        """Answers when the process is there."""

    def open(self, outcomes: list[ImageResult]) -> DecodedChunk | str:
        """The chunk, opened; or, as text, why it could not be."""
        if self._hangs:
            os._exit(1)
        try:
            return self._opener.open(outcomes)
        except DecoderHung:
            self._hangs = True
            return "an image keeps the decoder"


class RemoteLoader:
    """The images of bundles, as `ImageLoader` gives them. Bundles may share one; each has its own chunks out."""

    def __init__(self, plan: LoadPlan, openers: DecodePool, *, here: ImageLoader) -> None:
        self._plan = plan
        self._openers = openers
        self._here = here
        self._times = Times()
        self._telling = threading.Lock()
        self._comes = False
        self._image_bytes = 0
        self._came: deque[bool] = deque(maxlen=JUDGED_CHUNKS)
        self.num_images = 0
        """DecodedChunk elsewhere so far."""

    @property
    def is_no_help(self) -> bool:
        """Whether most of the last chunks had to be opened here."""
        return len(self._came) == JUDGED_CHUNKS and sum(self._came) < GIVEN_UP_BELOW * JUDGED_CHUNKS

    def times(self) -> Times:
        """What opening elsewhere cost so far."""
        return self._times

    def slots(self) -> int:
        """How many chunks openers can have in hand as things are now."""
        return self._openers.slots()

    def dismiss(self) -> None:
        """Let the openers go."""
        self._openers.dismiss()

    def batches(self, outcomes: Sequence[ImageResult]) -> Iterator[list[LoadedImage]]:
        """The images that could be opened, in order, in batches; else a failure is in the result. Raises DecoderHung."""
        return in_batches(self._sights(outcomes), most=self._plan.batch_images)

    def _sights(self, outcomes: Sequence[ImageResult]) -> Iterator[LoadedImage]:
        out: deque[tuple[list[ImageResult], DecodeTask | None]] = deque()
        most, start = 2 + self._openers.slots(), 0
        self._openers.start()
        try:
            while True:
                image_bytes = self._image_bytes
                size, allowed = _portions(image_bytes, most)
                while len(out) < allowed and (chunk := list(outcomes[start : start + size])):
                    handle = self._openers.open(chunk) if image_bytes else None
                    if handle is None:
                        if out:
                            break
                        chunk = list(outcomes[start : start + self._plan.window])
                    out.append((chunk, handle))
                    start += len(chunk)
                if not out:
                    return
                num_images = num_bytes = 0
                for sight in self._opened(*out.popleft()):
                    num_images, num_bytes = num_images + 1, num_bytes + sight.image.pixels.nbytes
                    yield sight
                    del sight
                if num_images:
                    self._image_bytes = num_bytes // num_images + 1
        finally:
            for _, handle in out:
                if handle is not None:
                    handle.cancel()

    def _opened(self, chunk: list[ImageResult], handle: DecodeTask | None) -> Iterator[LoadedImage]:
        if handle is None:
            yield from self._opened_here(chunk)
            return
        try:
            found = handle.result(timeout=PATIENCE_S if self._comes else IMPATIENCE_S)
        except TimeoutError:
            self._told(came=False)
            handle.cancel()
            yield from self._opened_here(chunk)
        except DecodeWorkerDied as error:
            self._told(came=False)
            log.warning("positions %d to %d: %s", chunk[0].ref.position, chunk[-1].ref.position, error)
            for batch in self._here.one_by_one(chunk, announce=lambda position: None):
                yield from batch
        else:
            self._told(came=True, num_images=len(chunk), times=found.times)
            for outcome, there, image in zip(chunk, found.outcomes, found.images, strict=True):
                _take(outcome, there)
                if image is not None:
                    yield LoadedImage(outcome, image)

    def _opened_here(self, chunk: list[ImageResult]) -> Iterator[LoadedImage]:
        for batch in self._here.batches(chunk):
            yield from batch
            del batch  # or its pixels would stay while the next ones gather

    def _told(self, *, came: bool, num_images: int = 0, times: Times | None = None) -> None:
        with self._telling:
            self._comes = came
            self._came.append(came)
            self.num_images += num_images
            self._times = self._times.plus(times or Times())


def _portions(image_bytes: int, most: int) -> tuple[int, int]:
    """How many images a chunk gets, and how many chunks may be out; one at a time while images' size is not known."""
    if not image_bytes:
        return CHUNK_IMAGES, 1
    size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // image_bytes))
    return size, max(2, min(most, AHEAD_BYTES // (size * image_bytes)))


def _take(outcome: ImageResult, there: ImageResult) -> None:
    """Make the worker's own outcome what an opener made of its copy."""
    for known in fields(ImageResult):
        setattr(outcome, known.name, getattr(there, known.name))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one worker did so far in the first shape. `seconds` of time, the others summed over threads."""

    num_images: int
    seconds: float
    fetch_s: float
    decode_s: float
    predict_s: float


def pays(so_far: Measured, plan: LoadPlan, *, slots: int) -> bool:
    """Whether opening in `slots` processes elsewhere is worth it for a worker that did so much by itself."""
    if not slots or not so_far.num_images or so_far.seconds < JUDGED_AFTER_S:
        return False
    n = so_far.num_images
    model = n / max(so_far.predict_s, 1e-9)
    decode, fetch = n / max(so_far.decode_s, 1e-9), n / max(so_far.fetch_s, 1e-9)
    here = min(model, decode * plan.decode_threads, fetch * plan.fetches)
    elsewhere = TRANSPORT * min(model, decode * slots / 2, fetch * plan.fetches * slots / 2)
    return elsewhere >= GAIN * max(here, n / so_far.seconds)

"""The remote loader: images decoded by other processes, for models that are faster than the cores beside them.

`compute.decode: separate`. A bundle is sent out in chunks, to decode workers on whatever CPUs are free
(`runs.ray_decode_pool`: Ray actors, also on nodes without a GPU), and comes back as decoded images in the order of the
index. Batches, parts and rows are therefore the same as when the worker decodes by itself. The worker depends on no
decode worker: it loads the first images itself while decode workers start, and so it does with a chunk that none can
take or that is late. A chunk whose decode worker died, perhaps because of an image in it, is decoded in a child
process here.

This module knows neither Ray nor job files, which a decode worker would import for nothing (0.3 s of a core each); a
`concurrent.futures.Future` is a valid DecodeTask.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan, make_batches
from batchtag.pipeline.stats import RunStats
from batchtag.storage import open_store
from batchtag.types import ImageRef

log = logging.getLogger(__name__)
CHUNK_IMAGES = 32
"""Images in a chunk. Sending one and receiving it costs the worker 2 ms."""
CHUNK_BYTES = 64 * 2**20
"""Maximum bytes of pixels in a chunk, estimated from the images before it; no chunk is sent before one was seen."""
AHEAD_BYTES = 384 * 2**20
"""Maximum bytes of pixels waiting in the object store for each of a worker's two bundles."""
MIN_ARRIVED_SHARE, JUDGED_CHUNKS = 0.5, 20
"""If a smaller share of the last JUDGED_CHUNKS chunks arrived in time, remote decoding does not help."""
PATIENCE_S, IMPATIENCE_S = 5.0, 0.1
"""Seconds to wait for the next chunk: the first if the chunk before it arrived, the second if it did not."""
MIN_GAIN = 1.15
"""Factor that remote decoding must promise; it costs processes, memory and copies."""
TRANSPORT_SHARE = 0.9
"""Share of the calculated rate that was measured (`python -m benchmarks.shapes`)."""
JUDGED_AFTER_S = 3.0
"""Seconds of work before the rates of a worker are trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedChunk:
    """One chunk, loaded. `stats` is what the decode worker spent since its last answer, perhaps on other chunks too."""

    images: list[LoadedImage]
    stats: RunStats


class DecodeWorkerDied(Exception):
    """The process that was decoding a chunk has ended, or its decoder hangs."""


class DecodeTask(Protocol):
    """A chunk that a decode worker has; a `Future[DecodedChunk]` is one."""

    def result(self, timeout: float | None = None) -> DecodedChunk:
        """Return the chunk. Raises TimeoutError if it is not finished yet, DecodeWorkerDied if it never will be."""
        ...

    def cancel(self) -> object:
        """Cancel the chunk; its images are not wanted any more."""
        ...


class DecodePool(Protocol):
    """The decode workers of one worker. Safe to use from two threads."""

    def slots(self) -> int:
        """Return how many chunks they can have in progress now, two for each decode worker; 0 if there are none."""
        ...

    def start(self) -> None:
        """Begin to start as many decode workers as fit. Returns at once."""
        ...

    def submit(self, refs: list[ImageRef]) -> DecodeTask | None:
        """Send a chunk to a decode worker; None if none can take it now."""
        ...

    def dismiss(self) -> None:
        """End all decode workers and free their CPUs. A later call of `slots` may bring new ones."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodeWorkerPlan:
    """What a decode worker must know. Sent to it by pickle and stored nowhere."""

    load: LoadPlan
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)


class DecodeWorker:
    """A process that fetches and decodes chunks. `decode_chunk` may be called from two threads at once."""

    def __init__(self, plan: DecodeWorkerPlan) -> None:
        self._loader = ImageLoader(plan.load, store_for=lambda uri: open_store(uri, plan.source_options))
        self._reported = RunStats()
        self._reporting = threading.Lock()
        self._is_hung = False

    def ready(self) -> None:
        """Answer when the process has started."""

    def decode_chunk(self, refs: list[ImageRef]) -> DecodedChunk | str:
        """Return the chunk; or, as text, the reason why it could not be loaded."""
        if self._is_hung:
            os._exit(1)  # the stuck thread cannot be stopped; the pool starts a new process
        try:
            images = [loaded for batch in self._loader.load(refs) for loaded in batch]
        except DecoderHung:
            self._is_hung = True
            return "an image hangs the decoder"
        with self._reporting:
            now = self._loader.stats()
            since, self._reported = now.loading_since(self._reported), now
        return DecodedChunk(images=images, stats=since)


class RemoteLoader:
    """Loads the images of bundles as `ImageLoader` does, through decode workers. Each bundle has chunks of its own."""

    def __init__(self, plan: LoadPlan, pool: DecodePool, *, local: ImageLoader) -> None:
        self._plan = plan
        self._pool = pool
        self._local = local
        self._stats = RunStats()
        self._lock = threading.Lock()
        self._last_arrived = False
        self._image_bytes = 0
        self._arrivals: deque[bool] = deque(maxlen=JUDGED_CHUNKS)

    @property
    def is_unhelpful(self) -> bool:
        """Whether the worker had to load most of the last chunks itself."""
        return len(self._arrivals) == JUDGED_CHUNKS and sum(self._arrivals) < MIN_ARRIVED_SHARE * JUDGED_CHUNKS

    def stats(self) -> RunStats:
        """Return what remote decoding cost so far, and how many images it loaded."""
        with self._lock:
            return self._stats.copy()

    def slots(self) -> int:
        """Return how many chunks decode workers can have in progress now."""
        return self._pool.slots()

    def dismiss(self) -> None:
        """End the decode workers."""
        self._pool.dismiss()

    def load(self, refs: Sequence[ImageRef]) -> Iterator[list[LoadedImage]]:
        """Yield all of these images in order, in the batches of `ImageLoader.load`. Raises DecoderHung."""
        return make_batches(self._load_in_order(refs), batch_size=self._plan.batch_size)

    def _load_in_order(self, refs: Sequence[ImageRef]) -> Iterator[LoadedImage]:
        in_flight: deque[tuple[list[ImageRef], DecodeTask | None]] = deque()
        max_chunks, start = 2 + self._pool.slots(), 0
        self._pool.start()
        try:
            while True:
                # 1. Send chunks to decode workers while some can take them.
                image_bytes = self._image_bytes
                size, allowed = _plan_chunks(image_bytes, max_chunks)
                while len(in_flight) < allowed and (chunk := list(refs[start : start + size])):
                    task = self._pool.submit(chunk) if image_bytes else None
                    if task is None:
                        if in_flight:
                            break
                        chunk = list(refs[start : start + self._plan.window])  # no decode worker: load a window here
                    in_flight.append((chunk, task))
                    start += len(chunk)
                if not in_flight:
                    return
                # 2. Hand out the chunk that is next in order, and learn how large images are.
                num_images = num_bytes = 0
                for loaded in self._receive(*in_flight.popleft()):
                    num_images += loaded.is_decoded
                    num_bytes += loaded.nbytes
                    yield loaded
                    del loaded
                if num_images:
                    self._image_bytes = num_bytes // num_images + 1
        finally:
            for _, task in in_flight:
                if task is not None:
                    task.cancel()

    def _receive(self, chunk: list[ImageRef], task: DecodeTask | None) -> Iterator[LoadedImage]:
        if task is None:
            yield from self._load_locally(chunk)
            return
        try:
            decoded = task.result(timeout=PATIENCE_S if self._last_arrived else IMPATIENCE_S)
        except TimeoutError:
            self._record(arrived=False)
            task.cancel()
            yield from self._load_locally(chunk)
        except DecodeWorkerDied as error:
            self._record(arrived=False)
            log.warning("positions %d to %d: %s", chunk[0].position, chunk[-1].position, error)
            for batch in self._local.load_isolated(chunk, announce=lambda position: None):
                yield from batch
        else:
            self._record(arrived=True, num_images=len(chunk), stats=decoded.stats)
            yield from decoded.images

    def _load_locally(self, chunk: list[ImageRef]) -> Iterator[LoadedImage]:
        for batch in self._local.load(chunk):
            yield from batch
            del batch  # its pixels must not live while the next batch is filled

    def _record(self, *, arrived: bool, num_images: int = 0, stats: RunStats | None = None) -> None:
        with self._lock:
            self._last_arrived = arrived
            self._arrivals.append(arrived)
            self._stats.num_decoded_remotely += num_images
            if stats is not None:
                self._stats.add(stats)


def _plan_chunks(image_bytes: int, max_chunks: int) -> tuple[int, int]:
    """Return the images in a chunk and the number of chunks that may be in progress.

    One chunk at a time while the size of images (`image_bytes` of pixels each) is not known.
    """
    if not image_bytes:
        return CHUNK_IMAGES, 1
    size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // image_bytes))
    return size, max(2, min(max_chunks, AHEAD_BYTES // (size * image_bytes)))


def is_remote_faster(stats: RunStats, plan: LoadPlan, *, elapsed_s: float, slots: int) -> bool:
    """Return whether decoding with `slots` chunks in other processes promises MIN_GAIN.

    `stats` and `elapsed_s` are what one worker did by itself so far.
    """
    if not slots or not stats.num_images or elapsed_s < JUDGED_AFTER_S:
        return False
    n = stats.num_images
    model_rate = n / max(stats.predict_s, 1e-9)
    decode_rate, fetch_rate = n / max(stats.decode_s, 1e-9), n / max(stats.fetch_s, 1e-9)
    local = min(model_rate, decode_rate * plan.decode_threads, fetch_rate * plan.fetches)
    remote = TRANSPORT_SHARE * min(model_rate, decode_rate * slots / 2, fetch_rate * plan.fetches * slots / 2)
    return remote >= MIN_GAIN * max(local, n / elapsed_s)

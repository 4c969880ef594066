"""The loader: image refs in, batches of decoded images out, with a bounded number of images ahead of the models.

A thread takes one image through fetch and decode: it waits for the network as one of `fetches` threads, then for one
of `decode_threads` permits. Whichever is scarce limits the other, and nothing queues up between them. Batches come
in the order of the index and not of arrival, so that a bundle gives the same batches, and therefore the same bits, on
every attempt; the price is that one slow GET delays the images behind it. The images ahead are bounded in bytes at the
decoder, the only place where their size is known: 64 photographs of 48 megapixels would take 9 GB.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.decoding.subprocess_decoder import SubprocessDecoder
from batchtag.errors import Code, StorageError
from batchtag.pipeline.fetch import fetch
from batchtag.pipeline.stats import RunStats
from batchtag.storage import Store
from batchtag.types import DecodedImage, Failure, ImagePrediction, ImageRef, ImageResult, InputResolution, Stage

BATCH_BYTES = 256 * 2**20
"""Maximum bytes of pixels in a batch, unless one image alone has more. Twice as much may be decoded ahead."""

DecodeBytes = Callable[[bytes], DecodedImage | Failure]


class DecoderHung(Exception):
    """Decoding one image takes longer than the job allows, and a thread cannot be stopped."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How a worker loads images: the rules, the resolutions that its models use, and how much at a time."""

    rules: DecodeRules
    resolutions: tuple[InputResolution, ...]
    decode_timeout_s: float
    fetches: int
    decode_threads: int
    batch_size: int

    @property
    def window(self) -> int:
        """Maximum number of images between listing and models: two batches, and enough to keep every fetch busy."""
        return max(2 * self.batch_size, 2 * self.fetches)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedImage:
    """An image between decoding and prediction: its pixels, or the failure that happened on the way.

    `etag`, `size_bytes`, `last_modified` and `content_hash` describe the bytes that were read, also if they could not
    be decoded; if nothing was read, they are as listed. (A plain `(ref, image or failure)` would lose them.)
    """

    ref: ImageRef
    etag: str
    size_bytes: int
    last_modified: datetime | None
    content_hash: str = ""
    image: DecodedImage | Failure

    @classmethod
    def failed(cls, ref: ImageRef, failure: Failure) -> LoadedImage:
        """Return the record of an image of which nothing was read."""
        return cls(ref=ref, etag=ref.etag, size_bytes=ref.size_bytes, last_modified=ref.last_modified, image=failure)

    @property
    def is_decoded(self) -> bool:
        """Whether it has pixels."""
        return isinstance(self.image, DecodedImage)

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels; 0 for a failure."""
        return self.image.pixels.nbytes if isinstance(self.image, DecodedImage) else 0

    def to_result(self, predictions: Sequence[ImagePrediction] = (), *, failure: Failure | None = None) -> ImageResult:
        """Return the result of this image. `failure` is what happened after decoding; an earlier failure counts."""
        facts = ImageResult(
            ref=self.ref,
            etag=self.etag,
            size_bytes=self.size_bytes,
            last_modified=self.last_modified,
            content_hash=self.content_hash,
        )
        if isinstance(self.image, Failure):
            return replace(facts, failure=self.image)
        return replace(
            facts,
            width=self.image.width,
            height=self.image.height,
            format=self.image.format,
            orientation=self.image.orientation,
            failure=failure,
            predictions=tuple(predictions),
        )


def make_batches(loaded_images: Iterable[LoadedImage], *, batch_size: int) -> Iterator[list[LoadedImage]]:
    """Yield all images in order, in batches of `batch_size` decoded ones, or fewer where they are large.

    A failure stays in the batch of its neighbours and does not count, so that models still get full batches. The last
    batch may hold failures alone.
    """
    batch: list[LoadedImage] = []
    num_decoded = num_bytes = 0
    for loaded in loaded_images:
        batch.append(loaded)
        num_decoded += loaded.is_decoded
        num_bytes += loaded.nbytes
        del loaded  # its pixels must not live longer than the batch
        if num_decoded >= batch_size or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_decoded, num_bytes = [], 0, 0
    if batch:
        yield batch


class ImageLoader:
    """Loads images for one worker. The bundles that the worker has in progress share its threads and permits."""

    def __init__(self, plan: LoadPlan, *, store_for: Callable[[str], Store]) -> None:
        """`store_for` returns the store that holds a URI."""
        self._plan = plan
        self._store_for = store_for
        self._pool = ThreadPoolExecutor(plan.fetches, thread_name_prefix="load")
        self._decode_permits = threading.Semaphore(plan.decode_threads)
        self._lock = threading.Lock()
        self._stats = RunStats()
        self._budgets: set[_DecodeBudget] = set()

    def stats(self) -> RunStats:
        """Return bytes fetched and seconds of fetching and decoding so far."""
        with self._lock:
            return self._stats.copy()

    @property
    def num_waiting(self) -> int:
        """Images that are decoded and not yet handed out in a batch."""
        return sum(budget.num_waiting for budget in list(self._budgets))

    def load(self, refs: Sequence[ImageRef]) -> Iterator[list[LoadedImage]]:
        """Yield all of these images in order, in batches; an image that cannot be loaded comes as a failure.

        Raises DecoderHung when an image keeps the decoder longer than the job allows.
        """
        budget = _DecodeBudget(limit_bytes=2 * BATCH_BYTES, permits=self._decode_permits)
        self._budgets.add(budget)
        try:
            for batch in make_batches(self._load_in_order(refs, budget), batch_size=self._plan.batch_size):
                num_bytes = sum(loaded.nbytes for loaded in batch)
                budget.hand_out(sum(loaded.is_decoded for loaded in batch))
                yield batch
                del batch  # its pixels must not live while the next batch is filled
                budget.release_bytes(num_bytes)
        finally:
            self._budgets.discard(budget)

    def load_isolated(
        self, refs: Sequence[ImageRef], *, announce: Callable[[int], None]
    ) -> Generator[list[LoadedImage], None, None]:
        """Yield batches of one image for a bundle that killed a worker, decoded in a child process.

        `announce` is called with the position of each image before it is fetched, so that a death names an image. A
        caller that stops early closes the generator, which ends the child.
        """

        def decode_in_child(data: bytes) -> DecodedImage | Failure:
            return child.decode(data, rules=self._plan.rules, resolutions=self._plan.resolutions)

        with SubprocessDecoder(timeout_s=self._plan.decode_timeout_s) as child:
            for ref in refs:
                announce(ref.position)
                yield [self._load_one(ref, decode_in_child, permit=self._decode_permits)]

    def _load_in_order(self, refs: Sequence[ImageRef], budget: _DecodeBudget) -> Iterator[LoadedImage]:
        in_flight: deque[Future[LoadedImage]] = deque()
        remaining = enumerate(refs)
        try:
            while True:
                while len(in_flight) < self._plan.window and (following := next(remaining, None)):
                    in_flight.append(self._pool.submit(self._load_within_budget, *following, budget))
                if not in_flight:
                    break
                loaded = self._wait_for(in_flight.popleft(), budget)
                yield loaded
                del loaded
        finally:
            # 1. Threads that wait for the budget must end before their futures are cancelled.
            budget.close()
            # 2. Loads that have not begun are cancelled.
            for future in in_flight:
                future.cancel()

    def _wait_for(self, future: Future[LoadedImage], budget: _DecodeBudget) -> LoadedImage:
        """Return the next image in order. A decoder that another bundle keeps busy is noticed by that bundle."""
        try:
            while True:
                try:
                    return future.result(timeout=min(1.0, self._plan.decode_timeout_s))
                except NotDone:
                    if not future.done() and budget.longest_decode_s() > self._plan.decode_timeout_s:
                        raise DecoderHung from None
        finally:
            budget.advance()

    def _load_within_budget(self, number: int, ref: ImageRef, budget: _DecodeBudget) -> LoadedImage:
        def decode_here(data: bytes) -> DecodedImage | Failure:
            image = decode(data, rules=self._plan.rules, resolutions=self._plan.resolutions)
            if isinstance(image, DecodedImage):
                budget.add_image(image.pixels.nbytes)
            return image

        return self._load_one(ref, decode_here, permit=budget.permit(number))

    def _load_one(
        self, ref: ImageRef, decode_bytes: DecodeBytes, *, permit: AbstractContextManager[object]
    ) -> LoadedImage:
        """Fetch and decode one image."""
        if ref.problem:
            code, _, message = ref.problem.partition(": ")
            return LoadedImage.failed(ref, Failure(stage=Stage.LIST, code=Code(code), message=message))
        started = time.monotonic()
        try:
            store = self._store_for(ref.shard or ref.uri)
            blob = fetch(ref, store=store, max_bytes=self._plan.rules.max_bytes)
        except StorageError as error:
            failure = Failure(stage=Stage.FETCH, code=error.code, message=error.message, attempts=error.attempts)
            return LoadedImage.failed(ref, failure)
        finally:
            self._add(fetch_s=time.monotonic() - started)
        self._add(fetched_bytes=len(blob.data))
        with permit:
            started = time.monotonic()
            content_hash = hashlib.sha256(blob.data).hexdigest()
            image = decode_bytes(blob.data)
            self._add(decode_s=time.monotonic() - started)
        return LoadedImage(
            ref=ref,
            etag=blob.etag,
            size_bytes=len(blob.data),
            last_modified=blob.last_modified or ref.last_modified,
            content_hash=content_hash,
            image=image,
        )

    def _add(self, *, fetch_s: float = 0.0, decode_s: float = 0.0, fetched_bytes: int = 0) -> None:
        with self._lock:
            self._stats.fetch_s += fetch_s
            self._stats.decode_s += decode_s
            self._stats.fetched_bytes += fetched_bytes


class _DecodeBudget:
    """The bytes that one bundle may decode ahead of the models. A thread waits here while they are used up.

    The image that is next in order never waits, so the bundle always advances. No thread holds a permit while it waits.
    """

    def __init__(self, *, limit_bytes: int, permits: threading.Semaphore) -> None:
        self._limit_bytes = limit_bytes
        self._permits = permits
        self._changed = threading.Condition()
        self._bytes = 0
        self.num_waiting = 0
        """Images that are decoded and not yet handed out."""
        self._next = 0
        self._closed = False
        self._decoding_since: dict[int, float] = {}

    @contextmanager
    def permit(self, number: int) -> Iterator[None]:
        """Hold a decode permit for the image with this number in the bundle. Raises CancelledError after `close`."""
        while not self._acquire(number):
            with self._changed:
                self._changed.wait_for(lambda: self._may_decode(number))
        self._decoding_since[number] = time.monotonic()
        try:
            yield
        finally:
            del self._decoding_since[number]
            self._permits.release()

    def _acquire(self, number: int) -> bool:
        """Return whether the image got a permit. While it waited for one, others may have used up the budget."""
        self._permits.acquire()
        with self._changed:
            if self._may_decode(number) and not self._closed:
                return True
        self._permits.release()
        if self._closed:
            raise CancelledError
        return False

    def _may_decode(self, number: int) -> bool:
        return self._closed or number <= self._next or self._bytes < self._limit_bytes

    def add_image(self, num_bytes: int) -> None:
        """Count a decoded image and the bytes of its pixels."""
        with self._changed:
            self._bytes += num_bytes
            self.num_waiting += 1

    def hand_out(self, num_images: int) -> None:
        """Count decoded images that leave in a batch. Their bytes count until `release_bytes`."""
        with self._changed:
            self.num_waiting -= num_images

    def release_bytes(self, num_bytes: int) -> None:
        """Give back the pixels of a batch that the models have finished."""
        with self._changed:
            self._bytes -= num_bytes
            self._changed.notify_all()

    def advance(self) -> None:
        """Let the following image be the next in order."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every wait; the remaining images are not wanted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def longest_decode_s(self) -> float:
        """Return the seconds for which the slowest image has been in the decoder."""
        now = time.monotonic()
        return max((now - since for since in list(self._decoding_since.values())), default=0.0)

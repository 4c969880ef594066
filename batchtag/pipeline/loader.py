"""Image refs in, batches of decoded images out: fetch and decode, many at a time, a bounded window ahead of the models.

A thread takes one image through both steps: it waits for the network as one of `fetches` threads, then for one of the
`decode_threads` permits, so whichever is scarce holds the other back and nothing queues up between them. Batches come in
the order of the index, not of arrival: the same bundle gives the same batches, and so the same bits, on every try. The
price is waiting for a slow GET with a window of others in hand. What is ahead is bounded in bytes where it becomes
large, at the decoder: only there is it known, and 64 submitted photographs of 48 megapixels would be 9 GB.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.decoding.subprocess_decoder import IsolatedDecoder
from batchtag.errors import Code, DecodeError, StorageError
from batchtag.pipeline.fetch import fetch
from batchtag.storage import Store
from batchtag.types import DecodedImage, Failure, ImageResult, InputResolution, Stage

BATCH_BYTES = 256 * 2**20
"""Pixels handed to the models at once, at most, but for one image; what is ahead of them holds as much again."""

Decoder = Callable[[bytes], DecodedImage]


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image with its pixels, between decoding and its tags."""

    outcome: ImageResult
    image: DecodedImage

    @property
    def scale_xy(self) -> tuple[float, float]:
        """From pixels as decoded to pixels as displayed."""
        height, width = self.image.pixels.shape[:2]
        return self.image.width / width, self.image.height / height


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How to open images: the rules, what the models need, and how much at a time."""

    rules: DecodeRules
    input_resolutions: tuple[InputResolution, ...]
    decode_timeout_s: float
    fetches: int
    decode_threads: int
    batch_images: int

    @property
    def window(self) -> int:
        """Images between listing and models: two batches, and enough to keep every fetch busy."""
        return max(2 * self.batch_images, 2 * self.fetches)


@dataclass(slots=True)
class Times:
    """What opening cost so far, in thread-seconds and bytes."""

    fetch_s: float = 0.0
    decode_s: float = 0.0
    fetched_bytes: int = 0

    def plus(self, other: Times, *, sign: int = 1) -> Times:
        """The sum of both, or with -1 what came since the other was taken."""
        return Times(
            self.fetch_s + sign * other.fetch_s,
            self.decode_s + sign * other.decode_s,
            self.fetched_bytes + sign * other.fetched_bytes,
        )


def in_batches(sights: Iterable[LoadedImage], *, most: int) -> Iterator[list[LoadedImage]]:
    """Images in order, in lists of `most`, or fewer where they are large; whoever opened them, the same lists."""
    batch: list[LoadedImage] = []
    batch_bytes = 0
    for sight in sights:
        batch.append(sight)
        batch_bytes += sight.image.pixels.nbytes
        del sight
        if len(batch) >= most or batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


class DecoderHung(Exception):
    """Decoding one image takes longer than the job allows, and a thread cannot be stopped."""


class ImageLoader:
    """Opens images for one worker. Threads and permits are shared by the bundles that run in it at once."""

    def __init__(self, plan: LoadPlan, *, store_for: Callable[[str], Store]) -> None:
        """`store_for` gives the store to read a URI from."""
        self._plan = plan
        self._store_for = store_for
        self._pool = ThreadPoolExecutor(plan.fetches, thread_name_prefix="open")
        self._may_decode = threading.Semaphore(plan.decode_threads)
        self._lock = threading.Lock()
        self._times = Times()

    def times(self) -> Times:
        """The sums so far."""
        with self._lock:
            return Times(self._times.fetch_s, self._times.decode_s, self._times.fetched_bytes)

    def batches(self, outcomes: Sequence[ImageResult]) -> Iterator[list[LoadedImage]]:
        """The images that could be opened, in order, in batches; the others' outcomes have their failure.

        Raises DecoderHung when an image keeps the decoder longer than allowed.
        """
        ahead = _Ahead(limit_bytes=2 * BATCH_BYTES, permits=self._may_decode)
        for batch in in_batches(self._sights(outcomes, ahead), most=self._plan.batch_images):
            batch_bytes = sum(sight.image.pixels.nbytes for sight in batch)
            yield batch
            del batch  # or its pixels would stay while the next ones gather
            ahead.gone(batch_bytes)

    def _sights(self, outcomes: Sequence[ImageResult], ahead: _Ahead) -> Iterator[LoadedImage]:
        waiting: deque[Future[LoadedImage | None]] = deque()
        rest = enumerate(outcomes)
        try:
            while True:
                while len(waiting) < self._plan.window and (found := next(rest, None)):
                    waiting.append(self._pool.submit(self._open_ahead, *found, ahead))
                if not waiting:
                    break
                sight = self._result(waiting.popleft(), ahead)
                if sight is not None:
                    yield sight
                    sight = None
        finally:
            ahead.close()
            for future in waiting:
                future.cancel()

    def one_by_one(
        self, outcomes: Sequence[ImageResult], *, announce: Callable[[int], None]
    ) -> Iterator[list[LoadedImage]]:
        """The same for a bundle that kills: batches of one, each announced by its position first, decoded in a child."""

        def decode_in_child(data: bytes) -> DecodedImage:
            return child.decode(data, rules=self._plan.rules, input_resolutions=self._plan.input_resolutions)

        with IsolatedDecoder(timeout_s=self._plan.decode_timeout_s) as child:
            for outcome in outcomes:
                announce(outcome.ref.position)
                sight = self._open(outcome, decode_in_child, turn=self._may_decode)
                if sight is not None:
                    yield [sight]

    def _result(self, future: Future[LoadedImage | None], ahead: _Ahead) -> LoadedImage | None:
        """The next image of the line. A decoder that another bundle keeps busy is that bundle's to notice."""
        try:
            while True:
                try:
                    return future.result(timeout=min(1.0, self._plan.decode_timeout_s))
                except NotYet:
                    if not future.done() and ahead.longest_s() > self._plan.decode_timeout_s:
                        raise DecoderHung from None
        finally:
            ahead.next()

    def _open_ahead(self, number: int, outcome: ImageResult, ahead: _Ahead) -> LoadedImage | None:
        def decode_here(data: bytes) -> DecodedImage:
            image = decode(data, rules=self._plan.rules, input_resolutions=self._plan.input_resolutions)
            ahead.took(image.pixels.nbytes)
            return image

        return self._open(outcome, decode_here, turn=ahead.turn(number))

    def _open(
        self, outcome: ImageResult, decoder: Decoder, *, turn: AbstractContextManager[object]
    ) -> LoadedImage | None:
        """One image through fetch and decode; None, and the failure in its outcome, if it cannot be opened."""
        ref = outcome.ref
        if ref.problem:
            code, _, message = ref.problem.partition(": ")
            outcome.failure = Failure(stage=Stage.LIST, code=Code(code), message=message)
            return None
        started = time.monotonic()
        try:
            store = self._store_for(ref.shard or ref.uri)
            blob = fetch(ref, store=store, max_bytes=self._plan.rules.max_bytes)
        except StorageError as error:
            attempts = getattr(error, "attempts", 1)
            outcome.failure = Failure(stage=Stage.FETCH, code=error.code, message=error.message, attempts=attempts)
            return None
        finally:
            self._add(fetch_s=time.monotonic() - started)
        self._add(fetched_bytes=len(blob.data))
        outcome.etag, outcome.size_bytes = blob.etag, len(blob.data)
        outcome.last_modified = blob.last_modified or ref.last_modified
        return self._decoded(outcome, blob.data, decoder, turn)

    def _decoded(
        self, outcome: ImageResult, data: bytes, decoder: Decoder, turn: AbstractContextManager[object]
    ) -> LoadedImage | None:
        with turn:
            started = time.monotonic()
            outcome.content_hash = hashlib.sha256(data).hexdigest()
            try:
                image = decoder(data)
            except DecodeError as error:
                outcome.failure = Failure(stage=Stage.DECODE, code=error.code, message=error.message)
                return None
            finally:
                self._add(decode_s=time.monotonic() - started)
        outcome.width, outcome.height = image.width, image.height
        outcome.format, outcome.orientation = image.format, image.orientation
        return LoadedImage(outcome, image)

    def _add(self, *, fetch_s: float = 0.0, decode_s: float = 0.0, fetched_bytes: int = 0) -> None:
        with self._lock:
            self._times.fetch_s += fetch_s
            self._times.decode_s += decode_s
            self._times.fetched_bytes += fetched_bytes


class _Ahead:
    """What one bundle has decoded and the models have not taken yet; an image waits here while that is too much.

    The image that comes next in the line never waits, so the line always moves. Nobody holds a permit while waiting.
    """

    def __init__(self, *, limit_bytes: int, permits: threading.Semaphore) -> None:
        self._limit_bytes = limit_bytes
        self._permits = permits
        self._changed = threading.Condition()
        self._bytes = 0
        self._next = 0
        self._closed = False
        self._decoding_since: dict[int, float] = {}

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """The right to decode the image with that number in the line."""
        while not self._admitted(number):
            with self._changed:
                self._changed.wait_for(lambda: self._may_go(number))
        self._decoding_since[number] = time.monotonic()
        try:
            yield
        finally:
            del self._decoding_since[number]
            self._permits.release()

    def _admitted(self, number: int) -> bool:
        """Whether the image got a permit. While it waited for one, others may have filled the room ahead."""
        self._permits.acquire()
        with self._changed:
            if self._may_go(number) and not self._closed:
                return True
        self._permits.release()
        if self._closed:
            raise CancelledError
        return False

    def _may_go(self, number: int) -> bool:
        return self._closed or number <= self._next or self._bytes < self._limit_bytes

    def took(self, num_bytes: int) -> None:
        """An image was decoded."""
        with self._changed:
            self._bytes += num_bytes

    def gone(self, num_bytes: int) -> None:
        """The models are done with so many bytes."""
        with self._changed:
            self._bytes -= num_bytes
            self._changed.notify_all()

    def next(self) -> None:
        """The line has moved by one image."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody wants the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def longest_s(self) -> float:
        """For how long the slowest image has been in the decoder."""
        now = time.monotonic()
        return max((now - since for since in list(self._decoding_since.values())), default=0.0)

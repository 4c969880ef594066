"""Images decoded by other processes: the same batches, whatever happens to the decode workers."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from batchtag.cluster.machines import Machine
from batchtag.pipeline import remote_loader
from batchtag.pipeline.loader import DecoderHung, ImageLoader
from batchtag.pipeline.remote_loader import (
    CHUNK_IMAGES,
    DecodedChunk,
    DecodeWorker,
    DecodeWorkerDied,
    DecodeWorkerPlan,
    RemoteLoader,
    is_remote_faster,
)
from batchtag.pipeline.stats import RunStats
from batchtag.runs import ray_decode_pool
from batchtag.types import DecodedImage, ImageRef
from tests.pipeline.test_loader import make_loader, plan, refs_of
from tests.support.samples import image_folder

NUM_IMAGES = 4 * CHUNK_IMAGES + 5
BATCH = 7
WINDOW = plan(batch_size=BATCH).window


class ThreadPool:
    """Decode workers in threads; what is sent and returned is pickled, as between processes."""

    def __init__(self, before: Callable[[list[ImageRef]], None] = lambda chunk: None, *, slots: int = 4) -> None:
        self.decode_worker = DecodeWorker(DecodeWorkerPlan(load=plan(batch_size=BATCH)))
        self.chunks: list[list[int]] = []
        self._before = before
        self._slots = slots
        self._pool = ThreadPoolExecutor(slots)

    def slots(self) -> int:
        return self._slots

    def start(self) -> None:
        """The threads have started."""

    def submit(self, refs: list[ImageRef]) -> Future[DecodedChunk] | None:
        self.chunks.append([ref.position for ref in refs])
        return self._pool.submit(self._decode, pickle.dumps(refs))

    def dismiss(self) -> None:
        self._pool.shutdown(wait=False)

    def _decode(self, sent: bytes) -> DecodedChunk:
        refs = pickle.loads(sent)
        self._before(refs)
        chunk: DecodedChunk = pickle.loads(pickle.dumps(self.decode_worker.decode_chunk(refs)))
        return chunk


def batches_of(loader: RemoteLoader | ImageLoader, refs: list[ImageRef]) -> list[Any]:
    """The batches as (result, pixels of a decoded image)."""
    return [
        [
            (loaded.to_result(), loaded.image.pixels.tobytes() if isinstance(loaded.image, DecodedImage) else b"")
            for loaded in batch
        ]
        for batch in loader.load(refs)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> list[ImageRef]:
    """Some images, one of which is not an image."""
    listed = image_folder(tmp_path / "p", NUM_IMAGES)
    Path(listed[40].uri).write_bytes(b"<html>no image</html>")
    return refs_of(listed)


@pytest.fixture
def expected(folder: list[ImageRef]) -> list[Any]:
    return batches_of(make_loader(plan(batch_size=BATCH)), folder)


def remote(pool: ThreadPool) -> RemoteLoader:
    return RemoteLoader(plan(batch_size=BATCH), pool, local=make_loader(plan(batch_size=BATCH)))


def test_decode_workers_give_the_batches_that_this_process_gives(
    folder: list[ImageRef], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    pool = ThreadPool()
    loader = remote(pool)
    assert batches_of(loader, folder) == expected
    sent = folder[WINDOW:]
    assert [position for chunk in pool.chunks for position in chunk] == [ref.position for ref in sent]
    assert loader.stats().fetched_bytes == sum(Path(ref.uri).stat().st_size for ref in sent)
    assert loader.stats().num_decoded_remotely == len(sent)


class SometimesFullPool(ThreadPool):
    """Takes a chunk or not, as the test says."""

    def __init__(self, *takes: bool) -> None:
        super().__init__()
        self.takes = iter(takes)

    def submit(self, refs: list[ImageRef]) -> Future[DecodedChunk] | None:
        return super().submit(refs) if next(self.takes, True) else None


@pytest.mark.parametrize(
    ("takes", "local_first", "sent"),
    [
        ((), WINDOW, NUM_IMAGES - WINDOW),
        ((False,) * 4, 3 * WINDOW, NUM_IMAGES - 3 * WINDOW),
        ((True, False, False), WINDOW, NUM_IMAGES - 2 * WINDOW),
    ],
    ids=["ready at once", "still starting", "sometimes full"],
)
def test_images_that_no_decode_worker_can_take_are_loaded_locally_a_window_at_a_time(
    folder: list[ImageRef],
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    takes: tuple[bool, ...],
    local_first: int,
    sent: int,
) -> None:
    """They do not queue behind chunks in progress: a decode worker may be free when those have arrived."""
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    pool = SometimesFullPool(*takes)
    assert batches_of(remote(pool), folder) == expected
    positions = [position for chunk in pool.chunks for position in chunk]
    assert positions[0] == folder[local_first].position
    assert len(positions) == sent


def test_no_chunk_is_sent_before_the_size_of_images_is_known(folder: list[ImageRef]) -> None:
    """The first two windows hold no image, so the size of a chunk cannot be calculated."""
    for ref in folder[: 2 * WINDOW]:
        Path(ref.uri).write_bytes(b"<html>no image</html>")
    pool = ThreadPool()
    batches_of(remote(pool), folder)
    assert pool.chunks[0][0] == folder[3 * WINDOW].position


def test_chunks_that_do_not_arrive_are_loaded_locally(
    folder: list[ImageRef], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 0.01)
    over = threading.Event()

    def never(chunk: list[ImageRef]) -> None:
        over.wait(30)

    loader = remote(ThreadPool(never))
    try:
        assert batches_of(loader, folder) == expected
    finally:
        over.set()
    assert loader.stats().fetched_bytes == 0


def test_a_chunk_whose_decode_worker_died_is_decoded_in_a_child_process(
    folder: list[ImageRef], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    isolated: list[int] = []
    load_isolated = ImageLoader.load_isolated

    def observed(self: ImageLoader, refs: list[ImageRef], **keywords: Any) -> Any:
        isolated.extend(ref.position for ref in refs)
        return load_isolated(self, refs, **keywords)

    deadly = folder[50].position

    def die_of_it(chunk: list[ImageRef]) -> None:
        if deadly in [ref.position for ref in chunk]:
            raise DecodeWorkerDied("the node was removed")

    monkeypatch.setattr(ImageLoader, "load_isolated", observed)
    pool = ThreadPool(die_of_it)
    assert batches_of(remote(pool), folder) == expected
    assert [isolated] == [chunk for chunk in pool.chunks if deadly in chunk]


def test_at_most_two_chunks_more_are_in_progress_than_decode_workers_have_slots(
    folder: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "CHUNK_IMAGES", 8)
    pool = ThreadPool(slots=1)
    batches = remote(pool).load(folder)
    for _ in range(WINDOW // BATCH + 1):  # the last one begins with local images and ends with remote ones
        next(batches)
    assert len(pool.chunks) == 1 + 2
    batches.close()  # type: ignore[attr-defined]


def test_a_decode_worker_whose_decoder_hangs_says_so(folder: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: ImageLoader, refs: Any) -> Any:
        raise DecoderHung

    monkeypatch.setattr(ImageLoader, "load", hang)
    assert DecodeWorker(DecodeWorkerPlan(load=plan())).decode_chunk(folder[:3]) == "an image hangs the decoder"


def test_decode_workers_whose_chunks_do_not_arrive_count_as_unhelpful(
    folder: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 0.0)
    monkeypatch.setattr(remote_loader, "JUDGED_CHUNKS", 4)
    over = threading.Event()

    def never(chunk: list[ImageRef]) -> None:
        over.wait(30)

    loader = remote(ThreadPool(never))
    assert not loader.is_unhelpful
    try:
        batches_of(loader, folder)
    finally:
        over.set()
    assert loader.is_unhelpful


def test_decode_workers_that_cannot_be_started_are_logged_and_tried_again_with_the_next_bundle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[type] = []

    def failing_remote(actor: type) -> Any:
        tried.append(actor)
        raise RuntimeError("the head does not answer")

    monkeypatch.setattr(ray, "remote", failing_remote)
    monkeypatch.setattr(ray_decode_pool, "list_machines", lambda: [Machine(cpus=4, gpus=0)])
    placement: Any = SimpleNamespace(actors=1, cpus_per_actor=1, gpus_per_actor=0)
    pool = ray_decode_pool.RayDecodePool(DecodeWorkerPlan(load=plan()), placement)
    for num_bundles in (1, 2):
        assert pool.slots() == 4  # two for each; one CPU is the worker's, and one is Ray Data's
        for _ in range(3):
            assert pool.submit([]) is None
            for thread in threading.enumerate():
                if thread.name == "decode-pool":
                    thread.join(10)
        assert len(tried) == num_bundles
    assert "decode workers could not be started: RuntimeError: the head does not answer" in caplog.text


def measured(
    *, fetch_ms: float, decode_ms: float, model_ms: float, rate: float, num_images: int = 10_000
) -> tuple[RunStats, float]:
    """The statistics of one worker, and the seconds in which it tagged these images."""
    stats = RunStats(
        num_images=num_images,
        fetch_s=fetch_ms * num_images / 1000,
        decode_s=decode_ms * num_images / 1000,
        predict_s=model_ms * num_images / 1000,
    )
    return stats, num_images / rate


SIXTEEN_FETCHES = plan(fetches=16, decode_threads=4)


@pytest.mark.parametrize(
    ("so_far", "slots", "expected"),
    [
        (measured(fetch_ms=30, decode_ms=6, model_ms=3, rate=320), 16, False),
        (measured(fetch_ms=30, decode_ms=6, model_ms=0.5, rate=500), 16, True),
        (measured(fetch_ms=300, decode_ms=6, model_ms=3, rate=53), 16, True),
        (measured(fetch_ms=30, decode_ms=40, model_ms=3, rate=95), 4, False),
        (measured(fetch_ms=30, decode_ms=40, model_ms=3, rate=95), 16, True),
        (measured(fetch_ms=30, decode_ms=40, model_ms=3, rate=95), 0, False),
        (measured(fetch_ms=30, decode_ms=40, model_ms=3, rate=95, num_images=100), 16, False),
    ],
    ids=["the model is the limit", "light", "far away", "few slots", "many slots", "no slot", "too early"],
)
def test_remote_decoding_is_faster_if_fetching_or_decoding_limits_the_model(
    so_far: tuple[RunStats, float], slots: int, expected: bool
) -> None:
    stats, elapsed_s = so_far
    assert is_remote_faster(stats, SIXTEEN_FETCHES, elapsed_s=elapsed_s, slots=slots) is expected

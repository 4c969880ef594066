"""Images opened by other processes: the same batches and outcomes, whatever happens to the others."""

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
    ChunkOpener,
    DecodedChunk,
    DecodeWorkerDied,
    DecodeWorkerPlan,
    Measured,
    RemoteLoader,
    pays,
)
from batchtag.runs import ray_decode_pool
from batchtag.types import ImageResult
from tests.pipeline.test_loader import opened, outcomes_of, plan
from tests.support.samples import image_folder

NUM_IMAGES = 4 * CHUNK_IMAGES + 5
BATCH = 7
WINDOW = plan(batch_images=BATCH).window


class Others:
    """Openers in threads; what goes to them and comes back is pickled, as between processes."""

    def __init__(self, before: Callable[[list[ImageResult]], None] = lambda chunk: None, *, slots: int = 4) -> None:
        self.opener = ChunkOpener(opened(plan(batch_images=BATCH)))
        self.chunks: list[list[int]] = []
        self._before = before
        self._slots = slots
        self._pool = ThreadPoolExecutor(slots)

    def slots(self) -> int:
        return self._slots

    def start(self) -> None:
        """They are there."""

    def open(self, outcomes: list[ImageResult]) -> Future[DecodedChunk] | None:
        self.chunks.append([outcome.ref.position for outcome in outcomes])
        return self._pool.submit(self._open, pickle.dumps(outcomes))

    def dismiss(self) -> None:
        self._pool.shutdown(wait=False)

    def _open(self, sent: bytes) -> DecodedChunk:
        outcomes = pickle.loads(sent)
        self._before(outcomes)
        answer: DecodedChunk = pickle.loads(pickle.dumps(self.opener.open(outcomes)))
        return answer


def found(stream: RemoteLoader | ImageLoader, outcomes: list[ImageResult]) -> tuple[list[Any], list[ImageResult]]:
    """The batches as (position, pixels) and all outcomes."""
    batches = [
        [(sight.outcome.ref.position, sight.image.pixels.tobytes()) for sight in batch]
        for batch in stream.batches(outcomes)
    ]
    return batches, outcomes


@pytest.fixture
def folder(tmp_path: Path) -> list[ImageResult]:
    """Some images, one of them none."""
    listed = image_folder(tmp_path / "p", NUM_IMAGES)
    Path(listed[40].uri).write_bytes(b"<html>no image</html>")
    return outcomes_of(listed)


@pytest.fixture
def expected(folder: list[ImageResult]) -> tuple[list[Any], list[ImageResult]]:
    copies = pickle.loads(pickle.dumps(folder))
    return found(opened(plan(batch_images=BATCH)), copies)


def here(**changes: Any) -> ImageLoader:
    return opened(plan(batch_images=BATCH, **changes))


def through(others: Others) -> RemoteLoader:
    return RemoteLoader(plan(batch_images=BATCH), others, here=here())


def test_others_give_the_batches_and_outcomes_that_this_process_gives(
    folder: list[ImageResult], expected: tuple[list[Any], list[ImageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    others = Others()
    stream = through(others)
    assert found(stream, folder) == expected
    sent = folder[WINDOW:]
    assert [position for chunk in others.chunks for position in chunk] == [outcome.ref.position for outcome in sent]
    assert stream.times().fetched_bytes == sum(outcome.size_bytes for outcome in sent)


class Now(Others):
    """Takes a chunk or not, by turns."""

    def __init__(self, *takes: bool) -> None:
        super().__init__()
        self.takes = iter(takes)

    def open(self, outcomes: list[ImageResult]) -> Future[DecodedChunk] | None:
        return super().open(outcomes) if next(self.takes, True) else None


@pytest.mark.parametrize(
    ("takes", "here_first", "sent"),
    [
        ((), WINDOW, NUM_IMAGES - WINDOW),
        ((False,) * 4, 3 * WINDOW, NUM_IMAGES - 3 * WINDOW),
        ((True, False, False), WINDOW, NUM_IMAGES - 2 * WINDOW),
    ],
    ids=["they are there", "they start", "they come and go"],
)
def test_what_nobody_can_take_is_opened_here_a_window_at_a_time(
    folder: list[ImageResult],
    expected: tuple[list[Any], list[ImageResult]],
    monkeypatch: pytest.MonkeyPatch,
    takes: tuple[bool, ...],
    here_first: int,
    sent: int,
) -> None:
    """And does not stand in line behind chunks that are out: somebody may be there when they have come."""
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    others = Now(*takes)
    assert found(through(others), folder) == expected
    positions = [position for chunk in others.chunks for position in chunk]
    assert positions[0] == folder[here_first].ref.position
    assert len(positions) == sent


def test_images_whose_size_is_not_known_yet_go_to_nobody(folder: list[ImageResult]) -> None:
    """The first two windows are no images, so nothing tells how many of them a chunk could hold."""
    for outcome in folder[: 2 * WINDOW]:
        Path(outcome.ref.uri).write_bytes(b"<html>no image</html>")
    others = Others()
    found(through(others), folder)
    assert others.chunks[0][0] == folder[3 * WINDOW].ref.position


def test_chunks_that_do_not_come_are_opened_here(
    folder: list[ImageResult], expected: tuple[list[Any], list[ImageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 0.01)
    over = threading.Event()

    def never(chunk: list[ImageResult]) -> None:
        over.wait(30)

    others = Others(never)
    stream = through(others)
    try:
        assert found(stream, folder) == expected
    finally:
        over.set()
    assert stream.times().fetched_bytes == 0


def test_a_chunk_whose_opener_died_is_opened_here_in_a_child(
    folder: list[ImageResult], expected: tuple[list[Any], list[ImageResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 30.0)
    careful: list[int] = []
    one_by_one = ImageLoader.one_by_one

    def watched(self: ImageLoader, outcomes: list[ImageResult], **keywords: Any) -> Any:
        careful.extend(outcome.ref.position for outcome in outcomes)
        return one_by_one(self, outcomes, **keywords)

    deadly = folder[50].ref.position

    def die_of_it(chunk: list[ImageResult]) -> None:
        if deadly in [outcome.ref.position for outcome in chunk]:
            raise DecodeWorkerDied("the node is gone")

    monkeypatch.setattr(ImageLoader, "one_by_one", watched)
    others = Others(die_of_it)
    assert found(through(others), folder) == expected
    assert [careful] == [chunk for chunk in others.chunks if deadly in chunk]


def test_no_more_chunks_are_out_than_others_can_have_in_hand_and_two(
    folder: list[ImageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "CHUNK_IMAGES", 8)
    others = Others(slots=1)
    batches = through(others).batches(folder)
    for _ in range(WINDOW // BATCH + 1):  # the last begins with what is opened here, and ends with what they opened
        next(batches)
    assert len(others.chunks) == 1 + 2
    batches.close()  # type: ignore[attr-defined]


def test_an_image_that_keeps_the_decoder_of_an_opener_is_told(folder: list[ImageResult]) -> None:
    class Stuck(ImageLoader):
        def batches(self, outcomes: Any) -> Any:
            raise DecoderHung

    with pytest.raises(DecoderHung):
        ChunkOpener(Stuck(plan(), store_for=lambda uri: pytest.fail(uri))).open(folder[:3])


def test_openers_whose_chunks_do_not_come_are_known_to_be_no_help(
    folder: list[ImageResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_loader, "IMPATIENCE_S", 0.0)
    monkeypatch.setattr(remote_loader, "JUDGED_CHUNKS", 4)
    over = threading.Event()

    def never(chunk: list[ImageResult]) -> None:
        over.wait(30)

    stream = through(Others(never))
    assert not stream.is_no_help
    try:
        found(stream, folder)
    finally:
        over.set()
    assert stream.is_no_help


def test_openers_that_cannot_be_started_are_told_and_the_next_bundle_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[type] = []

    def remote(actor: type) -> Any:
        tried.append(actor)
        raise RuntimeError("the head does not answer")

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray_decode_pool, "machines", lambda: [Machine(cpus=4, gpus=0)])
    placement: Any = SimpleNamespace(actors=1, cpus_per_actor=1, gpus_per_actor=0)
    others = ray_decode_pool.RayDecodePool(DecodeWorkerPlan(stream=plan()), placement)
    for num_bundles in (1, 2):
        assert others.slots() == 4  # two each; one CPU is the worker's, and one Ray Data's
        for _ in range(3):
            assert others.open([]) is None
            for thread in threading.enumerate():
                if thread.name == "hire":
                    thread.join(10)
        assert len(tried) == num_bundles
    assert "openers could not be started: RuntimeError: the head does not answer" in caplog.text


def measured(*, fetch_ms: float, decode_ms: float, model_ms: float, rate: float, num_images: int = 10_000) -> Measured:
    return Measured(
        num_images=num_images,
        seconds=num_images / rate,
        fetch_s=fetch_ms * num_images / 1000,
        decode_s=decode_ms * num_images / 1000,
        predict_s=model_ms * num_images / 1000,
    )


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
    ids=["the model is the limit", "light", "far away", "few elsewhere", "many elsewhere", "nobody", "too early"],
)
def test_going_out_pays_where_fetching_or_decoding_holds_the_model_back(
    so_far: Measured, slots: int, expected: bool
) -> None:
    assert pays(so_far, SIXTEEN_FETCHES, slots=slots) is expected

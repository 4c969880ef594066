from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import Code, DecodeError, StorageError
from batchtag.pipeline import loader
from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan
from batchtag.storage import Store
from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.local import LocalStore
from batchtag.types import DecodedImage, Failure, ImageRef, ImageResult, Stage
from tests.support.images import jpeg
from tests.support.samples import image_folder, listing_of


def plan(**changes: Any) -> LoadPlan:
    facts: dict[str, Any] = {"decode_timeout_s": 30.0, "fetches": 8, "decode_threads": 2, "batch_images": 4}
    return LoadPlan(rules=DecodeRules(max_bytes=100_000), input_resolutions=(), **{**facts, **changes})


def outcomes_of(listed: Sequence[ObjectInfo]) -> list[ImageResult]:
    names = ("uri", "etag", "size_bytes", "last_modified", "shard", "offset_bytes", "problem")
    return [
        ImageResult.of(ImageRef(position=100 + i, **{name: getattr(image, name) for name in names}))
        for i, image in enumerate(listed)
    ]


def opened(the_plan: LoadPlan, store: Store | None = None) -> ImageLoader:
    store = store or LocalStore()
    return ImageLoader(the_plan, store_for=lambda uri: store)


class Watched(LocalStore):
    """The local disk, which counts how many reads are under way, and can be told what to do in each."""

    def __init__(self, during: Callable[[str], None] = lambda uri: None) -> None:
        self.uris: list[str] = []
        self._during = during

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        self.uris.append(uri)
        self._during(uri)
        return super().read(uri, max_bytes=max_bytes, if_etag=if_etag)


def test_batches_come_in_the_order_of_the_index_whatever_arrives_first(tmp_path: Path) -> None:
    outcomes = outcomes_of(image_folder(tmp_path / "p", 10))
    later_ones_are_there = threading.Event()

    def first_is_slow(uri: str) -> None:
        if uri.endswith("0000.jpg"):
            later_ones_are_there.wait(10)
        elif uri.endswith("0006.jpg"):
            later_ones_are_there.set()

    batches = list(opened(plan(), Watched(first_is_slow)).batches(outcomes))
    assert [[sight.outcome.ref.position for sight in batch] for batch in batches] == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [108, 109],
    ]
    assert [sight.image.pixels[0, 0, 0] for batch in batches for sight in batch] == pytest.approx(
        list(range(10)), abs=4
    )


def test_no_more_than_the_window_is_taken_from_the_index(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 40)
    store = Watched()
    small = plan(fetches=2, batch_images=3)
    batches = opened(small, store).batches(outcomes_of(listed))
    consumed = 0
    for batch in batches:
        consumed += len(batch)
        assert len(store.uris) <= consumed + small.window
    assert (small.window, consumed, len(store.uris)) == (6, 40, 40)


def test_pixels_ahead_are_bounded_though_nothing_is_known_of_them_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 32 of the window are submitted at once; their pixels may not all be in memory at once."""
    image_bytes = 64 * 48 * 3
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    monkeypatch.setattr(loader, "BATCH_BYTES", 4 * image_bytes)
    lock, alive, most = threading.Lock(), 0, 0

    def counted(data: bytes, **rest: Any) -> DecodedImage:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return decode(data, **rest)

    monkeypatch.setattr(loader, "decode", counted)
    seen = 0
    for batch in opened(plan(fetches=16, decode_threads=2, batch_images=16)).batches(
        outcomes_of([listing_of(path)] * 64)
    ):
        assert len(batch) == 4
        seen += len(batch)
        with lock:
            alive -= len(batch)
    assert seen == 64
    assert most <= 2 * 4 + 2 + 4


def test_an_image_larger_than_the_bound_still_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BATCH_BYTES", 10)
    batches = list(opened(plan()).batches(outcomes_of(image_folder(tmp_path / "p", 20))))
    assert [len(batch) for batch in batches] == [1] * 20


def test_failures_of_each_stage_land_in_their_outcome_and_their_neighbours_come_through(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 6)
    (tmp_path / "p" / "0001.jpg").unlink()
    whole = (tmp_path / "p" / "0002.jpg").read_bytes()
    (tmp_path / "p" / "0002.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "p" / "0003.jpg").write_bytes(b"")
    listed[2], listed[3] = listing_of(tmp_path / "p" / "0002.jpg"), listing_of(tmp_path / "p" / "0003.jpg")
    listed[4] = ObjectInfo(uri="s3://b/x", problem="bad_name: the name is not UTF-8: really")
    outcomes = outcomes_of(listed)
    (batch,) = opened(plan(batch_images=10)).batches(outcomes)
    assert [sight.outcome.ref.position for sight in batch] == [100, 105]
    failures = [outcome.failure for outcome in outcomes]
    assert [(f.stage, f.code) if f else None for f in failures] == [
        None,
        (Stage.FETCH, Code.NOT_FOUND),
        (Stage.DECODE, Code.TRUNCATED),
        (Stage.FETCH, Code.EMPTY),
        (Stage.LIST, Code.BAD_NAME),
        None,
    ]
    assert isinstance(failures[4], Failure)
    assert failures[4].message == "the name is not UTF-8: really"
    assert outcomes[2].content_hash == hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    assert outcomes[1].content_hash == ""


def test_an_outcome_has_the_facts_of_the_bytes_that_were_read_not_of_those_listed(tmp_path: Path) -> None:
    (listed,) = image_folder(tmp_path / "p", 1)
    new = jpeg()
    Path(listed.uri).write_bytes(new)
    (outcome,) = outcomes = outcomes_of([listed])
    list(opened(plan()).batches(outcomes))
    now = listing_of(Path(listed.uri))
    assert (outcome.etag, outcome.size_bytes, outcome.last_modified) == (now.etag, len(new), now.last_modified)
    assert outcome.etag != listed.etag
    assert outcome.content_hash == hashlib.sha256(new).hexdigest()
    assert (outcome.width, outcome.height, outcome.format, outcome.orientation) == (64, 48, "jpeg", 1)


def test_attempts_of_a_store_that_gave_up_are_counted(tmp_path: Path) -> None:
    (listed,) = image_folder(tmp_path / "p", 1)

    def denied(uri: str) -> None:
        raise StorageError(f"{uri}: access denied", code=Code.DENIED)

    (outcome,) = outcomes = outcomes_of([listed])
    assert list(opened(plan(), Watched(denied)).batches(outcomes)) == []
    assert outcome.failure == Failure(
        stage=Stage.FETCH, code=Code.DENIED, message=f"{listed.uri}: access denied", attempts=1
    )


def test_a_bundle_of_nothing_but_failures_gives_no_batch_and_an_empty_one_ends() -> None:
    outcomes = outcomes_of([ObjectInfo(uri=f"s3://b/{i}", problem="bad_name: no") for i in range(9)])
    assert list(opened(plan()).batches(outcomes)) == []
    assert all(outcome.failure for outcome in outcomes)
    assert list(opened(plan()).batches([])) == []


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Images 66 pixels wide keep the decoder until the test is over."""
    release = threading.Event()

    def stuck_decode(data: bytes, **rest: Any) -> DecodedImage:
        image = decode(data, **rest)
        if image.width == 66:
            release.wait(30)
        return image

    monkeypatch.setattr(loader, "decode", stuck_decode)
    yield release
    release.set()


def test_a_stuck_decoder_is_noticed(tmp_path: Path, stuck: threading.Event) -> None:
    outcomes = outcomes_of(image_folder(tmp_path / "p", 6, side=65))
    batches = opened(plan(decode_timeout_s=0.1, batch_images=1)).batches(outcomes)
    assert [sight.outcome.ref.position for sight in next(batches)] == [100]
    with pytest.raises(DecoderHung):
        next(batches)


def test_another_bundles_stuck_image_is_not_blamed_on_this_one(tmp_path: Path, stuck: threading.Event) -> None:
    """One decoder, kept by bundle A: bundle B waits, and must not be the one that is done again with care."""
    both = opened(plan(decode_timeout_s=0.1, decode_threads=1))
    a = both.batches(outcomes_of(image_folder(tmp_path / "a", 2, side=65)[1:]))
    b = both.batches(outcomes_of(image_folder(tmp_path / "b", 1)))
    answers: list[object] = []
    waiting_for_b = threading.Thread(target=lambda: answers.append(next(b)))
    with pytest.raises(DecoderHung):
        next(a)
    waiting_for_b.start()
    waiting_for_b.join(0.3)
    assert answers == []
    stuck.set()
    waiting_for_b.join(10)
    assert len(answers) == 1


def test_a_consumer_that_stops_early_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that wait for room ahead hold the threads that the next bundle needs."""
    monkeypatch.setattr(loader, "BATCH_BYTES", 10)
    listed = image_folder(tmp_path / "p", 30)
    images = opened(plan(fetches=2))
    early = images.batches(outcomes_of(listed))
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert sum(len(batch) for batch in images.batches(outcomes_of(listed))) == 30


def test_two_bundles_share_threads_and_neither_loses_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BATCH_BYTES", 20_000)
    listed = image_folder(tmp_path / "p", 60)
    images = opened(plan(fetches=3, decode_threads=1))
    counts: list[int] = []

    def consume() -> None:
        counts.append(sum(len(batch) for batch in images.batches(outcomes_of(listed))))

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts == [60, 60]


def test_a_bundle_that_kills_is_opened_one_by_one_and_each_is_announced_before_it_is_touched(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 4)
    Path(listed[1].uri).write_bytes(b"no image")
    outcomes = outcomes_of(listed)
    story: list[str] = []
    store = Watched(lambda uri: story.append(f"read {uri[-8:-4]}"))
    sights: list[LoadedImage] = []
    for batch in opened(plan(), store).one_by_one(outcomes, announce=lambda position: story.append(f"at {position}")):
        story.append("batch")
        sights += batch
    assert [sight.outcome.ref.position for sight in sights] == [100, 102, 103]
    per_image = list(itertools.chain(*([f"at {100 + i}", f"read 000{i}", "batch"] for i in range(4))))
    per_image.remove("batch")
    assert sorted(story) == sorted(per_image)
    assert story[:4] == ["at 100", "read 0000", "batch", "at 101"]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.code is Code.UNSUPPORTED


def test_times_are_summed_over_threads(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 5)
    images = opened(plan())
    list(images.batches(outcomes_of(listed)))
    times = images.times()
    assert times.fetched_bytes == sum(image.size_bytes for image in listed)
    assert times.fetch_s > 0
    assert times.decode_s > 0


def test_a_decode_error_keeps_the_size_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes, **rest: Any) -> DecodedImage:
        raise DecodeError("broken", code=Code.CORRUPT)

    monkeypatch.setattr(loader, "decode", broken)
    (listed,) = image_folder(tmp_path / "p", 1)
    (outcome,) = outcomes = outcomes_of([listed])
    assert list(opened(plan()).batches(outcomes)) == []
    assert (outcome.size_bytes, outcome.width, outcome.format) == (listed.size_bytes, 0, "")
    assert outcome.failure == Failure(stage=Stage.DECODE, code=Code.CORRUPT, message="broken")

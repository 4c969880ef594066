from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import Code, StorageError
from batchtag.pipeline import loader
from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan
from batchtag.storage import Store
from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.local import LocalStore
from batchtag.types import DecodedImage, Failure, ImageRef, Stage
from tests.support.images import jpeg
from tests.support.samples import image_folder, listing_of


def plan(**changes: Any) -> LoadPlan:
    facts: dict[str, Any] = {"decode_timeout_s": 30.0, "fetches": 8, "decode_threads": 2, "batch_size": 4}
    return LoadPlan(rules=DecodeRules(max_bytes=100_000), resolutions=(), **{**facts, **changes})


def refs_of(listed: Sequence[ObjectInfo]) -> list[ImageRef]:
    """The images of a listing at positions from 100 on."""
    names = ("uri", "etag", "size_bytes", "last_modified")
    return [
        ImageRef(
            position=100 + i,
            problem=getattr(info, "problem", ""),
            **{name: getattr(info, name) for name in names},
        )
        for i, info in enumerate(listed)
    ]


def make_loader(the_plan: LoadPlan, store: Store | None = None) -> ImageLoader:
    store = store or LocalStore()
    return ImageLoader(the_plan, store_for=lambda uri: store)


def load_all(the_plan: LoadPlan, refs: Sequence[ImageRef], store: Store | None = None) -> list[LoadedImage]:
    return [loaded for batch in make_loader(the_plan, store).load(refs) for loaded in batch]


class ObservedStore(LocalStore):
    """The local disk, with a list of the URIs that were read, and a hook that runs during each read."""

    def __init__(self, during: Callable[[str], None] = lambda uri: None) -> None:
        self.uris: list[str] = []
        self._during = during

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        self.uris.append(uri)
        self._during(uri)
        return super().read(uri, max_bytes=max_bytes, if_etag=if_etag)


def first_sample(loaded: LoadedImage) -> int:
    assert isinstance(loaded.image, DecodedImage)
    return int(loaded.image.pixels[0, 0, 0])


def test_batches_come_in_the_order_of_the_index_whatever_arrives_first(tmp_path: Path) -> None:
    refs = refs_of(image_folder(tmp_path / "p", 10))
    later_images_arrived = threading.Event()

    def delay_first(uri: str) -> None:
        if uri.endswith("0000.jpg"):
            later_images_arrived.wait(10)
        elif uri.endswith("0006.jpg"):
            later_images_arrived.set()

    batches = list(make_loader(plan(), ObservedStore(delay_first)).load(refs))
    assert [[loaded.ref.position for loaded in batch] for batch in batches] == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [108, 109],
    ]
    assert [first_sample(loaded) for batch in batches for loaded in batch] == pytest.approx(list(range(10)), abs=4)


def test_no_more_than_the_window_is_taken_from_the_index(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 40)
    store = ObservedStore()
    small = plan(fetches=2, batch_size=3)
    consumed = 0
    for batch in make_loader(small, store).load(refs_of(listed)):
        consumed += len(batch)
        assert len(store.uris) <= consumed + small.window
    assert (small.window, consumed, len(store.uris)) == (6, 40, 40)


def test_pixels_ahead_are_bounded_although_their_size_is_unknown_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 32 images of the window are submitted at once; their pixels must not all be in memory at once."""
    image_bytes = 64 * 48 * 3
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg())
    monkeypatch.setattr(loader, "BATCH_BYTES", 4 * image_bytes)
    lock, alive, most = threading.Lock(), 0, 0

    def counting_decode(data: bytes, **rest: Any) -> DecodedImage | Failure:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return decode(data, **rest)

    monkeypatch.setattr(loader, "decode", counting_decode)
    num_loaded = 0
    for batch in make_loader(plan(fetches=16, decode_threads=2, batch_size=16)).load(refs_of([listing_of(path)] * 64)):
        assert len(batch) == 4
        num_loaded += len(batch)
        with lock:
            alive -= len(batch)
    assert num_loaded == 64
    assert most <= 2 * 4 + 2 + 4


def test_an_image_larger_than_the_limit_still_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BATCH_BYTES", 10)
    batches = list(make_loader(plan()).load(refs_of(image_folder(tmp_path / "p", 20))))
    assert [len(batch) for batch in batches] == [1] * 20


def test_a_failure_of_each_stage_comes_in_its_place_and_its_neighbours_are_loaded(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 6)
    (tmp_path / "p" / "0001.jpg").unlink()
    whole = (tmp_path / "p" / "0002.jpg").read_bytes()
    (tmp_path / "p" / "0002.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "p" / "0003.jpg").write_bytes(b"")
    listed[2], listed[3] = listing_of(tmp_path / "p" / "0002.jpg"), listing_of(tmp_path / "p" / "0003.jpg")
    listed[4] = ImageRef(uri="s3://b/x", problem="bad_name: the name is not UTF-8: really")
    (batch,) = make_loader(plan(batch_size=10)).load(refs_of(listed))
    assert [loaded.ref.position for loaded in batch] == [100, 101, 102, 103, 104, 105]
    failures = [loaded.image if isinstance(loaded.image, Failure) else None for loaded in batch]
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
    assert batch[2].content_hash == hashlib.sha256(whole[: len(whole) // 2]).hexdigest()
    assert batch[1].content_hash == ""


def test_a_result_describes_the_bytes_that_were_read_and_not_those_listed(tmp_path: Path) -> None:
    (listed,) = image_folder(tmp_path / "p", 1)
    new = jpeg()
    Path(listed.uri).write_bytes(new)
    (loaded,) = load_all(plan(), refs_of([listed]))
    result = loaded.to_result()
    now = listing_of(Path(listed.uri))
    assert (result.etag, result.size_bytes, result.last_modified) == (now.etag, len(new), now.last_modified)
    assert result.etag != listed.etag
    assert result.content_hash == hashlib.sha256(new).hexdigest()
    assert (result.width, result.height, result.format, result.orientation) == (64, 48, "jpeg", 1)


def test_the_attempts_of_a_fetch_that_failed_are_counted(tmp_path: Path) -> None:
    (listed,) = image_folder(tmp_path / "p", 1)

    def deny(uri: str) -> None:
        raise StorageError(f"{uri}: access denied", code=Code.DENIED)

    (loaded,) = load_all(plan(), refs_of([listed]), ObservedStore(deny))
    assert loaded.image == Failure(
        stage=Stage.FETCH, code=Code.DENIED, message=f"{listed.uri}: access denied", attempts=1
    )


def test_failures_do_not_change_which_images_share_a_batch(tmp_path: Path) -> None:
    """The rows of an image must not depend on whether another one failed to load."""
    listed = image_folder(tmp_path / "p", 8)
    for number in (1, 2, 6):
        Path(listed[number].uri).write_bytes(b"no image")
    batches = list(make_loader(plan(batch_size=3)).load(refs_of(listed)))
    assert [[loaded.ref.position - 100 for loaded in batch] for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7]]


def test_a_bundle_of_failures_comes_as_one_batch_and_an_empty_bundle_ends_at_once() -> None:
    refs = [ImageRef(uri=f"s3://b/{i}", problem="bad_name: no", position=i) for i in range(9)]
    (batch,) = make_loader(plan()).load(refs)
    assert [loaded.ref for loaded in batch] == refs
    assert all(isinstance(loaded.image, Failure) for loaded in batch)
    assert list(make_loader(plan()).load([])) == []


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Images 66 pixels wide keep the decoder until the test ends."""
    release = threading.Event()

    def stuck_decode(data: bytes, **rest: Any) -> DecodedImage | Failure:
        image = decode(data, **rest)
        if isinstance(image, DecodedImage) and image.width == 66:
            release.wait(30)
        return image

    monkeypatch.setattr(loader, "decode", stuck_decode)
    yield release
    release.set()


def test_a_stuck_decoder_is_noticed(tmp_path: Path, stuck: threading.Event) -> None:
    refs = refs_of(image_folder(tmp_path / "p", 6, side=65))
    batches = make_loader(plan(decode_timeout_s=0.1, batch_size=1)).load(refs)
    assert [loaded.ref.position for loaded in next(batches)] == [100]
    with pytest.raises(DecoderHung):
        next(batches)


def test_a_bundle_that_waits_for_another_bundles_stuck_image_is_not_blamed(
    tmp_path: Path, stuck: threading.Event
) -> None:
    """Bundle A keeps the only decoder: bundle B waits, and must not be the one that is isolated."""
    shared = make_loader(plan(decode_timeout_s=0.1, decode_threads=1))
    a = shared.load(refs_of(image_folder(tmp_path / "a", 2, side=65)[1:]))
    b = shared.load(refs_of(image_folder(tmp_path / "b", 1)))
    batches_of_b: list[object] = []
    waiting_for_b = threading.Thread(target=lambda: batches_of_b.append(next(b)))
    with pytest.raises(DecoderHung):
        next(a)
    waiting_for_b.start()
    waiting_for_b.join(0.3)
    assert batches_of_b == []
    stuck.set()
    waiting_for_b.join(10)
    assert len(batches_of_b) == 1


def test_no_thread_stays_blocked_if_the_consumer_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that wait for the byte budget hold threads that the next bundle needs."""
    monkeypatch.setattr(loader, "BATCH_BYTES", 10)
    listed = image_folder(tmp_path / "p", 30)
    images = make_loader(plan(fetches=2))
    early = images.load(refs_of(listed))
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert sum(len(batch) for batch in images.load(refs_of(listed))) == 30
    assert images.num_waiting == 0


def test_two_bundles_share_threads_and_neither_loses_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BATCH_BYTES", 20_000)
    listed = image_folder(tmp_path / "p", 60)
    images = make_loader(plan(fetches=3, decode_threads=1))
    counts: list[int] = []

    def consume() -> None:
        counts.append(sum(len(batch) for batch in images.load(refs_of(listed))))

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts == [60, 60]


def test_an_isolated_bundle_is_loaded_one_image_at_a_time_each_announced_before_it_is_fetched(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 4)
    Path(listed[1].uri).write_bytes(b"no image")
    events: list[str] = []
    store = ObservedStore(lambda uri: events.append(f"read {uri[-8:-4]}"))
    images: list[LoadedImage] = []
    batches = make_loader(plan(), store).load_isolated(
        refs_of(listed), announce=lambda position: events.append(f"announce {position}")
    )
    for batch in batches:
        events.append("batch")
        images += batch
    assert [loaded.ref.position for loaded in images] == [100, 101, 102, 103]
    assert events == list(itertools.chain(*([f"announce {100 + i}", f"read 000{i}", "batch"] for i in range(4))))
    assert isinstance(images[1].image, Failure)
    assert images[1].image.code is Code.UNSUPPORTED


def test_seconds_and_bytes_are_summed_over_threads(tmp_path: Path) -> None:
    listed = image_folder(tmp_path / "p", 5)
    images = make_loader(plan())
    list(images.load(refs_of(listed)))
    stats = images.stats()
    assert stats.fetched_bytes == sum(info.size_bytes for info in listed)
    assert stats.fetch_s > 0
    assert stats.decode_s > 0


def test_a_result_that_could_not_be_decoded_keeps_the_size_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(stage=Stage.DECODE, code=Code.CORRUPT, message="broken")
    monkeypatch.setattr(loader, "decode", lambda data, **rest: failure)
    (listed,) = image_folder(tmp_path / "p", 1)
    (loaded,) = load_all(plan(), refs_of([listed]))
    result = loaded.to_result()
    assert (result.size_bytes, result.width, result.format) == (listed.size_bytes, 0, "")
    assert result.failure == failure

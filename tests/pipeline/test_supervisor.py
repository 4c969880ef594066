from __future__ import annotations

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.pipeline.supervisor import MAX_UNEXPLAINED_STARTS, NO_IMAGE, Supervisor


def test_the_third_start_of_a_bundle_is_isolated_and_the_first_two_are_not() -> None:
    supervisor = Supervisor()
    assert [supervisor.start_bundle("a").isolated for _ in range(4)] == [False, False, True, True]
    assert not supervisor.start_bundle("b").isolated


def test_a_bundle_that_hung_is_isolated_at_its_next_start() -> None:
    supervisor = Supervisor()
    supervisor.start_bundle("a")
    supervisor.isolate_bundle("a")
    assert supervisor.start_bundle("a").isolated
    assert not supervisor.start_bundle("b").isolated


def test_an_image_that_two_deaths_name_is_blocklisted() -> None:
    supervisor = Supervisor()
    supervisor.isolate_bundle("a")
    assert supervisor.start_bundle("a").blocklisted == frozenset()
    supervisor.announce_image("a", 7)
    assert supervisor.start_bundle("a").blocklisted == frozenset()
    supervisor.announce_image("a", 6)
    supervisor.announce_image("a", 7)
    assert supervisor.start_bundle("a").blocklisted == {7}


def test_images_with_one_death_each_are_not_blocklisted() -> None:
    supervisor = Supervisor()
    for position in (3, 4):
        supervisor.start_bundle("a")
        supervisor.announce_image("a", position)
    assert supervisor.start_bundle("a").blocklisted == frozenset()


def test_several_images_of_a_bundle_may_be_blocklisted() -> None:
    supervisor = Supervisor()
    for position in (3, 3, 5, 5):
        supervisor.start_bundle("a")
        supervisor.announce_image("a", position)
    attempt = supervisor.start_bundle("a")
    assert attempt.blocklisted == {3, 5}
    assert attempt.fatal == ""


def test_a_death_after_the_last_image_is_blamed_on_no_image() -> None:
    supervisor = Supervisor()
    for _ in range(3):
        supervisor.start_bundle("a")
        supervisor.announce_image("a", 7)
        supervisor.announce_image("a", NO_IMAGE)
    assert supervisor.start_bundle("a").blocklisted == frozenset()


def test_a_bundle_is_fatal_only_after_many_deaths_that_name_no_image() -> None:
    supervisor = Supervisor()
    answers = [supervisor.start_bundle("a").fatal for _ in range(MAX_UNEXPLAINED_STARTS + 1)]
    assert answers[:-1] == [""] * MAX_UNEXPLAINED_STARTS
    assert answers[-1] == f"bundle a was started {MAX_UNEXPLAINED_STARTS + 1} times and its worker died each time"


def test_deaths_that_name_an_image_do_not_make_a_bundle_fatal() -> None:
    supervisor = Supervisor()
    for position in range(100):
        assert supervisor.start_bundle("a").fatal == ""
        supervisor.announce_image("a", position)


def test_a_committed_bundle_is_forgotten() -> None:
    """A run has millions of bundles and one supervisor."""
    supervisor = Supervisor()
    supervisor.isolate_bundle("a")
    for _ in range(3):
        supervisor.start_bundle("a")
        supervisor.announce_image("a", 7)
    supervisor.finish_bundle("a")
    assert not supervisor.start_bundle("a").isolated
    supervisor.finish_bundle("a")
    kept = [value for name, value in vars(supervisor).items() if name not in ("_workers", "_clock")]
    assert not any(kept)


def heartbeat(num_images: int) -> WorkerHeartbeat:
    return WorkerHeartbeat(stats=RunStats(num_images=num_images), alive_s=1.0, decode_threads=1, fetches=1)


def test_a_snapshot_has_the_last_heartbeat_of_every_worker_also_of_dead_ones() -> None:
    supervisor = Supervisor()
    for worker, num_images in (("w1", 1), ("w1", 5), ("w2", 2)):
        supervisor.record_heartbeat(worker, heartbeat(num_images))
    snapshot = supervisor.snapshot()
    assert {name: each.stats.num_images for name, each in snapshot.items()} == {"w1": 5, "w2": 2}
    snapshot.clear()
    assert len(supervisor.snapshot()) == 2


def test_a_snapshot_says_how_old_each_heartbeat_is() -> None:
    """A heartbeat is up to a second old when the driver asks, and rates count from the start of the worker."""
    now = iter([10.0, 10.75])
    supervisor = Supervisor(clock=lambda: next(now))
    supervisor.record_heartbeat("w1", heartbeat(1))
    (seen,) = supervisor.snapshot().values()
    assert (seen.alive_s, seen.age_s) == (1.0, 0.75)

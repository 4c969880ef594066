from __future__ import annotations

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.pipeline.supervisor import NOWHERE, STARTS_WITHOUT_A_NAME, Supervisor


def test_the_third_start_is_careful_and_the_first_two_are_not() -> None:
    monitor = Supervisor()
    assert [monitor.start("a").careful for _ in range(4)] == [False, False, True, True]
    assert not monitor.start("b").careful


def test_a_bundle_that_hung_is_careful_at_once() -> None:
    monitor = Supervisor()
    monitor.start("a")
    monitor.needs_care("a")
    assert monitor.start("a").careful
    assert not monitor.start("b").careful


def test_an_image_that_two_deaths_name_is_given_up() -> None:
    monitor = Supervisor()
    monitor.needs_care("a")
    assert monitor.start("a").give_up == frozenset()
    monitor.at("a", 7)
    assert monitor.start("a").give_up == frozenset()
    monitor.at("a", 6)
    monitor.at("a", 7)
    assert monitor.start("a").give_up == {7}


def test_one_death_each_gives_up_nobody() -> None:
    monitor = Supervisor()
    for position in (3, 4):
        monitor.start("a")
        monitor.at("a", position)
    assert monitor.start("a").give_up == frozenset()


def test_several_images_of_a_bundle_may_be_given_up() -> None:
    monitor = Supervisor()
    for position in (3, 3, 5, 5):
        monitor.start("a")
        monitor.at("a", position)
    start = monitor.start("a")
    assert start.give_up == {3, 5}
    assert start.hopeless == ""


def test_a_death_after_the_last_image_names_nobody() -> None:
    monitor = Supervisor()
    for _ in range(3):
        monitor.start("a")
        monitor.at("a", 7)
        monitor.at("a", NOWHERE)
    assert monitor.start("a").give_up == frozenset()


def test_a_bundle_is_hopeless_only_after_many_deaths_that_name_nobody() -> None:
    monitor = Supervisor()
    answers = [monitor.start("a").hopeless for _ in range(STARTS_WITHOUT_A_NAME + 1)]
    assert answers[:-1] == [""] * STARTS_WITHOUT_A_NAME
    assert answers[-1] == f"bundle a was begun {STARTS_WITHOUT_A_NAME + 1} times and its worker died each time"


def test_deaths_that_name_an_image_do_not_make_a_bundle_hopeless() -> None:
    monitor = Supervisor()
    for position in range(100):
        assert monitor.start("a").hopeless == ""
        monitor.at("a", position)


def test_a_bundle_that_is_done_is_forgotten() -> None:
    """A run has millions of bundles, and one Supervisor."""
    monitor = Supervisor()
    monitor.needs_care("a")
    for _ in range(3):
        monitor.start("a")
        monitor.at("a", 7)
    monitor.done("a")
    assert not monitor.start("a").careful
    monitor.done("a")
    kept = [value for name, value in vars(monitor).items() if name not in ("_workers", "_clock")]
    assert not any(kept)


def figures(num_images: int) -> WorkerHeartbeat:
    return WorkerHeartbeat(counters=RunStats(num_images=num_images), alive_s=1.0, decode_threads=1, fetches=1)


def test_a_snapshot_has_the_last_figures_of_every_worker_dead_ones_too() -> None:
    monitor = Supervisor()
    for worker, num_images in (("w1", 1), ("w1", 5), ("w2", 2)):
        monitor.beat(worker, figures(num_images))
    snapshot = monitor.snapshot()
    assert {name: each.counters.num_images for name, each in snapshot.items()} == {"w1": 5, "w2": 2}
    snapshot.clear()
    assert len(monitor.snapshot()) == 2


def test_a_snapshot_says_how_old_it_is() -> None:
    """What a worker said is up to a second old when the driver asks, and rates are counted from when it was born."""
    now = iter([10.0, 10.75])
    monitor = Supervisor(clock=lambda: next(now))
    monitor.beat("w1", figures(1))
    (seen,) = monitor.snapshot().values()
    assert (seen.alive_s, seen.age_s) == (1.0, 0.75)


def test_counters_add_up_and_keep_a_few_examples() -> None:
    one, other = RunStats(num_images=2, fetch_s=0.5), RunStats(num_images=3, fetch_s=0.25)
    for i in range(5):
        one.failed("empty", f"a{i}")
    other.failed("empty", "b")
    other.failed("denied", "c")
    total = RunStats()
    for each in (one, other):
        total.add(each)
    assert (total.num_images, total.num_failed, total.fetch_s) == (5, 7, 0.75)
    assert total.failed_by_code == {"empty": 6, "denied": 1}
    assert total.examples == {"empty": ["a0", "a1", "a2"], "denied": ["c"]}
    total.failed("denied", "d")
    assert other.examples["denied"] == ["c"]

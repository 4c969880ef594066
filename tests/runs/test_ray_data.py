"""The end of a Ray Data data set, whatever its executor does then. No Ray is started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from batchtag.runs import ray_data


class FakeExecutor(StreamingExecutor):
    """A thread of Ray Data that runs until it is over, and makes no request to Ray."""

    def __init__(self, *, raises: bool = False, hangs: bool = False) -> None:
        threading.Thread.__init__(self, daemon=True)
        self.over, self.answered = threading.Event(), threading.Event()
        self.num_shutdowns, self.has_ended = 0, False
        self.before_end: Callable[[], object] = self.is_alive
        """Called when the thread is over and before `shutdown` returns."""
        self._raises, self._hangs = raises, hangs
        self.start()

    def run(self) -> None:
        self.over.wait()

    def shutdown(self, force: bool, exception: Exception | None = None) -> None:
        self.num_shutdowns += 1
        if self._raises:
            raise RuntimeError("Ray is over")
        if self._hangs:
            self.answered.wait()
        self.over.set()
        self.before_end()
        self.has_ended = True

    def __del__(self) -> None:
        """Ray's own method ends what this one never started."""


@pytest.fixture
def executors() -> Iterator[list[FakeExecutor]]:
    """A list for the executors of a test, which are ended after it."""
    started: list[FakeExecutor] = []
    yield started
    for executor in started:
        executor.over.set()
        executor.answered.set()
        executor.join()


def start_consumer(*executors: FakeExecutor) -> threading.Thread:
    """Start a thread that reads from these executors until they are over."""

    def read() -> None:
        for executor in executors:
            executor.over.wait()

    consumer = threading.Thread(target=read, daemon=True)
    consumer.start()
    return consumer


def test_every_executor_is_ended_and_its_errors_are_dropped(executors: list[FakeExecutor]) -> None:
    executors += [FakeExecutor(raises=True), FakeExecutor()]
    consumer = start_consumer(executors[1])
    ray_data.end_workers(consumer)
    assert not consumer.is_alive()
    assert executors[0].num_shutdowns


def test_the_end_does_not_wait_for_ever_for_a_ray_that_does_not_answer(
    executors: list[FakeExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "END_S", 1.0)
    executors.append(FakeExecutor(hangs=True))
    ray_data.end_workers(start_consumer(executors[0]))
    assert executors[0].num_shutdowns == 1
    assert not executors[0].over.is_set()


def test_the_end_waits_until_no_executor_makes_a_request_to_ray(executors: list[FakeExecutor]) -> None:
    executors.append(FakeExecutor())
    consumer = start_consumer(executors[0])
    executors[0].before_end = consumer.join
    ray_data.end_workers(consumer)
    assert executors[0].has_ended

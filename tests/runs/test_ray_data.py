"""The end of a line, whatever Ray Data's executor does then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from batchtag.runs import ray_data


class Executor(StreamingExecutor):
    """A thread of Ray Data's, which runs until it is over, and asks Ray nothing."""

    def __init__(self, *, raises: bool = False, hangs: bool = False) -> None:
        threading.Thread.__init__(self, daemon=True)
        self.over, self.answered = threading.Event(), threading.Event()
        self.asked, self.has_ended = 0, False
        self.last_words: Callable[[], object] = self.is_alive
        self._raises, self._hangs = raises, hangs
        self.start()

    def run(self) -> None:
        self.over.wait()

    def shutdown(self, force: bool, exception: Exception | None = None) -> None:
        self.asked += 1
        if self._raises:
            raise RuntimeError("Ray is over")
        if self._hangs:
            self.answered.wait()
        self.over.set()
        self.last_words()
        self.has_ended = True

    def __del__(self) -> None:
        """Ray's own ends what was never begun."""


@pytest.fixture
def executors() -> Iterator[list[Executor]]:
    """Those that a test makes are over when it is."""
    made: list[Executor] = []
    yield made
    for executor in made:
        executor.over.set()
        executor.answered.set()
        executor.join()


def reading(*executors: Executor) -> threading.Thread:
    """A thread that reads from these until they are over."""

    def read() -> None:
        for executor in executors:
            executor.over.wait()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


def test_the_end_of_a_line_hides_no_error_and_ends_every_executor(executors: list[Executor]) -> None:
    executors += [Executor(raises=True), Executor()]
    reader = reading(executors[1])
    ray_data.end_line(reader)
    assert not reader.is_alive()
    assert executors[0].asked


def test_a_ray_that_does_not_answer_holds_up_no_end(executors: list[Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "END_S", 1.0)
    executors.append(Executor(hangs=True))
    ray_data.end_line(reading(executors[0]))
    assert executors[0].asked == 1
    assert not executors[0].over.is_set()


def test_whoever_ends_a_line_waits_until_nothing_is_asked_of_ray_any_more(executors: list[Executor]) -> None:
    executors.append(Executor())
    reader = reading(executors[0])
    executors[0].last_words = reader.join
    ray_data.end_line(reader)
    assert executors[0].has_ended

"""Which errors are retried, the waits between attempts, and the number of attempts in the result."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage.retry import RetryPolicy, with_retries


def failing(times: int, *, transient: bool = True) -> Callable[[], str]:
    remaining = iter(range(times))

    def call() -> str:
        for n in remaining:
            raise StorageError(f"failure {n + 1}", code=Code.TIMEOUT, transient=transient)
        return "done"

    return call


def no_sleep(seconds: float) -> None:
    pytest.fail(f"slept {seconds} s")


def test_the_result_comes_with_the_number_of_attempts() -> None:
    assert with_retries(failing(0), sleep=no_sleep) == ("done", 1)
    assert with_retries(failing(5), sleep=lambda _: None) == ("done", 6)


def test_waits_are_a_random_part_of_a_limit_that_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=6, base_s=1.0, cap_s=5.0)
    waits: list[float] = []
    with_retries(failing(5), policy=policy, sleep=waits.append, random=lambda: 0.5)
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]


def test_the_last_error_is_raised_with_the_number_of_attempts_which_survives_pickling() -> None:
    with pytest.raises(StorageError, match="failure 6") as caught:
        with_retries(failing(99), sleep=lambda _: None)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.attempts, error.code, error.transient) == (6, Code.TIMEOUT, True)


def test_an_error_that_is_not_transient_is_raised_at_once() -> None:
    with pytest.raises(StorageError, match="failure 1") as caught:
        with_retries(failing(99, transient=False), sleep=no_sleep)
    assert caught.value.attempts == 1


def test_other_exceptions_are_not_caught() -> None:
    with pytest.raises(ZeroDivisionError):
        with_retries(lambda: 1 // 0, sleep=no_sleep)


def test_a_policy_without_attempts_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1, got 0"):
        RetryPolicy(attempts=0)


def test_the_wait_of_a_late_attempt_does_not_overflow() -> None:
    assert RetryPolicy().longest_wait_s(100_000) == 20.0

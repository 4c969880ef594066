"""Who is tried again, how long is waited, and what is known at the end."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage.retry import RetryPolicy, with_retries


def failing(times: int, *, transient: bool = True) -> Callable[[], str]:
    left = iter(range(times))

    def call() -> str:
        for n in left:
            raise StorageError(f"trouble {n + 1}", code=Code.TIMEOUT, transient=transient)
        return "done"

    return call


def no_sleep(seconds: float) -> None:
    pytest.fail(f"slept {seconds} s")


def test_success_is_given_with_the_number_of_attempts() -> None:
    assert with_retries(failing(0), sleep=no_sleep) == ("done", 1)
    assert with_retries(failing(5), sleep=lambda _: None) == ("done", 6)


def test_waits_double_up_to_the_cap_and_are_a_random_part_of_that() -> None:
    policy = RetryPolicy(attempts=6, base_s=1.0, cap_s=5.0)
    waits: list[float] = []
    with_retries(failing(5), policy=policy, sleep=waits.append, random=lambda: 0.5)
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]


def test_the_last_error_is_raised_with_its_attempts_which_cross_processes() -> None:
    with pytest.raises(StorageError, match="trouble 6") as caught:
        with_retries(failing(99), sleep=lambda _: None)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.attempts, error.code, error.transient) == (6, Code.TIMEOUT, True)


def test_what_is_not_transient_is_raised_at_once() -> None:
    with pytest.raises(StorageError, match="trouble 1") as caught:
        with_retries(failing(99, transient=False), sleep=no_sleep)
    assert caught.value.attempts == 1


def test_other_exceptions_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        with_retries(lambda: 1 // 0, sleep=no_sleep)


def test_a_policy_that_never_tries_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1, got 0"):
        RetryPolicy(attempts=0)


def test_the_wait_of_a_late_attempt_does_not_overflow() -> None:
    assert RetryPolicy().longest_wait_s(100_000) == 20.0

"""Tries again: exponential back-off with full jitter, and only for trouble that a store calls transient.

The one place that retries; stores make one attempt a call, with the retries of botocore and s3fs turned off, because
nested retries multiply (5 x 5 tries hid a throttled bucket for minutes) and cannot be counted. Full jitter, not a
fixed delay: 32 fetchers that were throttled together must not come back together.
"""

from __future__ import annotations

import random as _random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from batchtag.errors import StorageError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait: before try n + 1, up to `base_s` doubled n - 1 times, at most `cap_s`."""

    attempts: int = 6
    base_s: float = 0.2
    cap_s: float = 20.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def longest_wait_s(self, attempt: int) -> float:
        """The most that is waited after the `attempt`-th try (from 1) failed."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 62))


READS = RetryPolicy()
"""One image: given up after at most 6 s of waiting, because a million others wait behind it."""

WRITES = RetryPolicy(attempts=12, base_s=0.5, cap_s=30.0)
"""A part: a bundle's minute of GPU work stands behind it, so a store may be away for 90 s, on average."""


def with_retries(
    call: Callable[[], T],
    *,
    policy: RetryPolicy = READS,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = _random.random,
) -> tuple[T, int]:
    """What `call` returns, and how many attempts that took.

    Raises the StorageError of the last attempt, its `attempts` set; one that is not transient is raised at once.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return call(), attempt
        except StorageError as error:
            error.attempts = attempt
            if not error.transient or attempt == policy.attempts:
                raise
        sleep(random() * policy.longest_wait_s(attempt))

"""Retries of reads, writes and listings: exponential back-off with full jitter, only for errors that are transient.

This is the only place that retries. Stores make one attempt per call, with the retries of botocore and s3fs turned off:
nested retries multiply (5 x 5 attempts hid a throttled bucket for minutes) and cannot be counted. Full jitter instead
of a fixed delay, because 32 fetch threads that were throttled at the same moment must not return at the same moment.

Where the policy of a request comes from:
- the GET of an image: `pipeline/fetch.py`, READS;
- pages of an S3 listing: `storage/s3/store.py` (`list_policy`), READS, each page by itself;
- a long read of one object (manifest, shard): `storage/ranged_file.py`, WRITES;
- what a run writes under OUT: each caller passes WRITES to `with_retries`; its reads of OUT use the default, READS;
- the lease (`output/lease.py`): READS, because a holder that waited for minutes would lose it meanwhile.
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
    """Number of attempts, and the waits between them.

    The wait after attempt n is random, between 0 and `base_s` * 2^(n - 1) seconds, and never more than `cap_s`.
    """

    attempts: int = 6
    base_s: float = 0.2
    cap_s: float = 20.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def longest_wait_s(self, attempt: int) -> float:
        """Return the upper limit of the wait after the `attempt`-th attempt (from 1) failed."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 62))


READS = RetryPolicy()
"""Policy for reads, such as the GET of one image: at most 6 s of waiting, because a million images wait behind it."""

WRITES = RetryPolicy(attempts=12, base_s=0.5, cap_s=30.0)
"""Policy for writes. A part holds the GPU work of a minute, so a store may be unreachable for 90 s on average."""


def with_retries(
    call: Callable[[], T],
    *,
    policy: RetryPolicy = READS,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = _random.random,
) -> tuple[T, int]:
    """Call `call` until it succeeds; return its result and the number of attempts.

    Raises the StorageError of the last attempt, with `attempts` set. An error that is not transient is raised at once.
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

"""What a run knows of its workers: the starts of each bundle, the image on the table when one died, and the figures.

One object a run, a plain class; `pipeline` makes it a tiny Ray actor on the driver's node. It decides what a worker
does with a bundle that killed before: twice is bad luck (a spot node, the out-of-memory killer) and the bundle is
simply done again; from the third start on it is done with care, one image at a time and each announced first, so that
a death names an image; an image that two deaths name is given up as `crashed`. So nothing loops for ever, and it costs
a careful bundle about a millisecond an image.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from batchtag.pipeline.stats import WorkerHeartbeat

CAREFUL_FROM_START = 3
DEATHS_THAT_NAME = 2
STARTS_WITHOUT_A_NAME = 20
"""A bundle begun that often although no image was ever named kills in another way: the run fails and says so."""


NOWHERE = -1
"""Announced when a careful worker has left its last image: what it dies of from then on is no image's fault."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How a worker is to do a bundle. `give_up` are positions that killed; `hopeless` says why the run must fail."""

    careful: bool
    give_up: frozenset[int] = frozenset()
    hopeless: str = ""


class Supervisor:
    """The memory of one run beside its workers. Every method is quick; none blocks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard_at: dict[str, float] = {}
        self._starts: Counter[str] = Counter()
        self._needs_care: set[str] = set()
        self._at: dict[str, int] = {}
        self._deaths: dict[str, Counter[int]] = defaultdict(Counter)
        self._workers: dict[str, WorkerHeartbeat] = {}

    def start(self, bundle: str) -> Attempt:
        """A worker begins this bundle. The image that was announced and never left is what its last worker died of."""
        self._starts[bundle] += 1
        for figures in self._workers.values():
            figures.in_flight.pop(bundle, None)  # what a dead worker had done of it is done again
        died_at = self._at.pop(bundle, None)
        if died_at is not None:
            self._deaths[bundle][died_at] += 1
        give_up = frozenset(p for p, deaths in self._deaths[bundle].items() if deaths >= DEATHS_THAT_NAME)
        careful = self._starts[bundle] >= CAREFUL_FROM_START or bundle in self._needs_care
        unnamed = self._starts[bundle] - sum(self._deaths[bundle].values())
        hopeless = ""
        if unnamed > STARTS_WITHOUT_A_NAME:
            hopeless = f"bundle {bundle} was begun {self._starts[bundle]} times and its worker died each time"
        return Attempt(careful=careful, give_up=give_up, hopeless=hopeless)

    def needs_care(self, bundle: str) -> None:
        """The next start of this bundle must be careful: an image in it hung."""
        self._needs_care.add(bundle)

    def at(self, bundle: str, position: int) -> None:
        """A careful worker is about to look at this image, or at none (NOWHERE)."""
        if position == NOWHERE:
            self._at.pop(bundle, None)
        else:
            self._at[bundle] = position

    def done(self, bundle: str) -> None:
        """The bundle is committed; forget what is known of it."""
        self._starts.pop(bundle, None)
        self._needs_care.discard(bundle)
        self._at.pop(bundle, None)
        self._deaths.pop(bundle, None)

    def beat(self, worker: str, figures: WorkerHeartbeat) -> None:
        """A worker's figures so far. A restarted worker has a new name: what the dead one did is kept."""
        self._workers[worker] = figures
        self._heard_at[worker] = self._clock()

    def snapshot(self) -> dict[str, WorkerHeartbeat]:
        """The last figures of every worker, dead ones too, by worker name."""
        now = self._clock()
        return {name: replace(one, age_s=now - self._heard_at[name]) for name, one in self._workers.items()}

"""The report of a verification: the result of each check, and the counts of the tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MAX_EXAMPLES = 20
"""Default number of violations that a check names."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of checking one rule: the number of violations, and the first few (uri, detail) in order of URI."""

    name: str
    meaning: str
    num_violations: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.num_violations == 0


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The results of all checks of an output, and the counts of its tables. `seconds` is the time it took."""

    out: str
    num_listed: int
    num_tagged: int
    num_failed: int
    num_duplicate: int
    num_tags: int
    num_parts: int
    checks: list[Check]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def num_to_do(self) -> int:
        """Number of images of the index that have no row in `images`."""
        return next(check.num_violations for check in self.checks if check.name == "to_do")

    def summary(self) -> str:
        """Return one line: tagged + failed + duplicate against the index, and the number of checks that failed."""
        num_failed_checks = sum(not check.ok for check in self.checks)
        verdict = f"{num_failed_checks} of {len(self.checks)} checks failed"
        if self.ok:
            verdict = f"all {len(self.checks)} checks passed"
        parts = f"{self.num_parts:,} part{'' if self.num_parts == 1 else 's'}"
        to_do = f" + {self.num_to_do:,} still to do" if self.num_to_do else ""
        return (
            f"{self.out}: {self.num_tagged:,} tagged + {self.num_failed:,} failed + {self.num_duplicate:,} duplicate"
            f"{to_do} of {self.num_listed:,} images in the index, {self.num_tags:,} tags, {parts}: "
            f"{verdict} ({self.seconds:.1f} s)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"ok": self.ok, "num_to_do": self.num_to_do, **asdict(self)}

"""What can go wrong, in words that cross processes.

    BatchtagError             exit  what the user should do
    |-- UsageError              2   change the command or the job file
    |   `-- JobFileError        2   the same, for a job file: every mistake in it at once
    |-- StorageError            1   look at the store: it says which URI, and `code` says what kind of trouble
    |   `-- ConditionFailed     1   somebody else wrote first
    |-- DecodeError             -   never leaves the line: becomes the failure row of one image
    |-- ModelError              1   a model cannot be had, or is not what it claims to be
    |-- OutputError             1   OUT is held by another run, belongs to another job, or lies inside the source
    |   `-- LeaseLost           1   this run was declared dead and another one took over
    |-- RunFailed               1   the run stopped; what is committed stays, and the same command goes on
    |-- Interrupted           130   run the same command again
    `-- TooManyFailures         3   the run stopped by itself: too large a share of the images failed

A failing image is data (`records.Failure`); a failing job is one of these. Each takes one positional message, with
further facts as attributes that have defaults, because an exception that demands keywords cannot be unpickled.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Why one image has no tags: a stable word that people filter and alert on. Never renamed, only added to."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    DENIED = "denied"
    THROTTLED = "throttled"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CHANGED = "changed"
    BAD_NAME = "bad_name"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_ERROR = "model_error"
    CRASHED = "crashed"

    @property
    def retryable(self) -> bool:
        """Whether another day may bring another answer: `truncated` is a fact of the bytes, `timeout` of the day."""
        return self in _OF_THE_DAY


_OF_THE_DAY = frozenset(
    {Code.THROTTLED, Code.TIMEOUT, Code.UNREACHABLE, Code.CHANGED, Code.DENIED, Code.NOT_FOUND, Code.OUT_OF_MEMORY}
)


class BatchtagError(Exception):
    """Everything we raise on purpose. `exit_code` is what the CLI ends with."""

    exit_code = 1

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, dict(vars(self))))


def _rebuild(kind: type[BatchtagError], message: str, facts: dict[str, Any]) -> BatchtagError:
    error = kind(message)
    error.__dict__.update(facts)
    return error


class UsageError(BatchtagError):
    """The command cannot mean anything as it was typed."""

    exit_code = 2


class JobFileError(UsageError):
    """A job file with mistakes; the message has one line for each."""


class StorageError(BatchtagError):
    """A store did not do what was asked. `code` is the kind of trouble; `transient` says whether to try again.

    `attempts` counts the tries that were made before it was given up.
    """

    code: Code = Code.UNREACHABLE
    transient: bool = False
    attempts: int = 1


class ConditionFailed(StorageError):
    """A conditional write or read found another version of the object."""

    code = Code.CHANGED


class DecodeError(BatchtagError):
    """These bytes give no image; `code` says why."""

    code: Code = Code.CORRUPT


class ModelError(BatchtagError):
    """A model cannot be loaded, or is not what it claims to be."""


class OutputError(BatchtagError):
    """OUT cannot be used by this run."""


class LeaseLost(OutputError):
    """Another run holds OUT now; this one must not write any more."""


class RunFailed(BatchtagError):
    """The run stopped before its end. Committed parts stay."""


class Interrupted(BatchtagError):
    """Somebody asked the run to stop: Ctrl-C, or SIGTERM from a scheduler."""

    exit_code = 130


class TooManyFailures(BatchtagError):
    """More images failed than the job allows."""

    exit_code = 3

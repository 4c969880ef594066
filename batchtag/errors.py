"""The exceptions of batchtag, and the codes of failing images.

    BatchtagError             exit  what the user should do
    |-- UsageError              2   correct the command or the job file
    |   `-- JobFileError        2   correct the job file; the message has one line for every mistake in it
    |-- StorageError            1   check the store; the message names the URI, and `code` the kind of problem
    |   `-- ConditionFailed     1   another process wrote the object first
    |-- ModelError              1   name another model: this one cannot be loaded, or its files contradict each other
    |-- OutputError             1   choose another OUT, or wait: it is in use, holds another job, or lies in the source
    |   `-- LeaseLost           1   another run took OUT over, because this run had not renewed its lease
    |-- RunFailed               1   run the same command again; what is committed stays
    |-- Interrupted           130   run the same command again
    `-- TooManyFailures         3   read the failures; a larger share of the images failed than the job allows

A failing image is data (`types.Failure`); a failing job is one of these exceptions. Each takes one positional message.
Further facts are attributes with defaults, because an exception that demands keywords cannot be unpickled, and these
cross process borders.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The reason why one image has no tags. People alert on these words, so codes are added, never renamed."""

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
    def is_retryable(self) -> bool:
        """Whether a later run may succeed: `truncated` is a property of the bytes, `timeout` of the moment."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {Code.THROTTLED, Code.TIMEOUT, Code.UNREACHABLE, Code.CHANGED, Code.DENIED, Code.NOT_FOUND, Code.OUT_OF_MEMORY}
)


class BatchtagError(Exception):
    """Base class of all errors that batchtag raises on purpose. `exit_code` is the exit code of the command."""

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
    """A command line or a setting that contradicts itself or names something that does not exist."""

    exit_code = 2


class JobFileError(UsageError):
    """A job file with mistakes; the message has one line for each mistake."""


class StorageError(BatchtagError):
    """A request to a store that failed.

    `code` is the kind of problem, `transient` whether to try again, `attempts` the number of requests that were made.
    """

    code: Code = Code.UNREACHABLE
    transient: bool = False
    attempts: int = 1


class ConditionFailed(StorageError):
    """A conditional read or write that found another version of the object."""

    code = Code.CHANGED


class ModelError(BatchtagError):
    """A model that cannot be loaded, or whose files contradict each other."""


class OutputError(BatchtagError):
    """An OUT that this run cannot use."""


class LeaseLost(OutputError):
    """The lease of OUT belongs to another run now; this run must not write any more."""


class RunFailed(BatchtagError):
    """A run that stopped before its end. Committed parts stay."""


class Interrupted(BatchtagError):
    """A run that was asked to stop: Ctrl-C, or SIGTERM from a scheduler."""

    exit_code = 130


class TooManyFailures(BatchtagError):
    """A run that stopped because a larger share of the images failed than the job allows."""

    exit_code = 3

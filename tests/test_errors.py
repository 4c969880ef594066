"""Exceptions keep their facts when they cross processes, and codes of failing images say whether to try again."""

from __future__ import annotations

import copy
import pickle

from batchtag.errors import BatchtagError, Code, StorageError, TooManyFailures, UsageError


def test_an_exception_keeps_its_facts_across_processes() -> None:
    error = StorageError("s3://b/a: slow down", code=Code.THROTTLED, transient=True)
    error.attempts = 6
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is StorageError
        assert (twin.message, str(twin)) == ("s3://b/a: slow down", "s3://b/a: slow down")
        assert (twin.code, twin.transient, twin.attempts) == (Code.THROTTLED, True, 6)


def test_the_facts_of_one_error_do_not_leak_into_the_next() -> None:
    StorageError("a", code=Code.DENIED, transient=True)
    assert (StorageError("b").code, StorageError("b").transient) == (Code.UNREACHABLE, False)


def test_exit_codes_are_as_documented() -> None:
    codes = (BatchtagError.exit_code, UsageError.exit_code, TooManyFailures.exit_code)
    assert codes == (1, 2, 3)


def test_a_code_is_a_plain_word_and_tells_whether_a_later_run_may_succeed() -> None:
    assert f"{Code.TRUNCATED}" == "truncated"
    assert not Code.TRUNCATED.is_retryable
    assert not Code.CRASHED.is_retryable
    assert Code.THROTTLED.is_retryable
    assert Code.OUT_OF_MEMORY.is_retryable

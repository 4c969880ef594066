"""Objects as seekable files: reads that are retried, and an object that is replaced while it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchtag.errors import ConditionFailed, StorageError
from batchtag.storage import ranged_file
from batchtag.storage.base import Blob
from batchtag.storage.local import LocalStore
from batchtag.storage.ranged_file import open_ranged, open_with_retries
from batchtag.storage.retry import RetryPolicy


class UnreliableStore(LocalStore):
    """A local store whose every second read fails in a way that may pass."""

    def __init__(self) -> None:
        self.reads = 0

    def read_range(self, uri: str, offset_bytes: int, size_bytes: int, *, if_etag: str = "") -> Blob:
        self.reads += 1
        if self.reads % 2:
            raise StorageError(f"{uri}: the connection broke", transient=True)
        return super().read_range(uri, offset_bytes, size_bytes, if_etag=if_etag)


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ranged_file, "WRITES", RetryPolicy(base_s=0.0))
    (tmp_path / "list.txt").write_bytes(b"0123456789")
    return str(tmp_path / "list.txt")


def test_each_read_is_retried_and_reads_as_much_as_the_buffer(uri: str) -> None:
    store = UnreliableStore()
    with open_with_retries(store.stat(uri), store=store, buffer_bytes=4) as file:
        assert [file.read(2), file.read(2), file.read(2)] == [b"01", b"23", b"45"]
    assert store.reads == 4


def test_a_plain_ranged_file_makes_one_attempt(uri: str) -> None:
    store = UnreliableStore()
    with open_ranged(store, uri) as file, pytest.raises(StorageError, match="the connection broke"):
        file.read()
    assert store.reads == 1


def test_an_object_that_is_replaced_while_it_is_read_raises_condition_failed(uri: str) -> None:
    store = LocalStore()
    with open_with_retries(store.stat(uri), store=store, buffer_bytes=4) as file:
        assert file.read(4) == b"0123"
        store.write(uri, b"another upload")
        with pytest.raises(ConditionFailed):
            file.read(4)

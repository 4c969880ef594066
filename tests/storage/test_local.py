"""What only a local disk has: killed writes, links, odd names, files that change while they are read."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchtag.errors import Code, ConditionFailed, StorageError
from batchtag.storage import ABSENT
from batchtag.storage.base import ObjectInfo, UnreadableObject
from batchtag.storage.local import LocalStore, is_unfinished_write

STORE = LocalStore()


def listing(folder: Path | str) -> list[ObjectInfo]:
    return [info for page in STORE.walk(str(folder)) for info in page]


def test_a_walk_follows_links_but_not_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"x")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    by_name = {info.uri.removeprefix(f"{tmp_path}/"): info for info in listing(tmp_path)}
    broken_link = by_name.pop("self")
    assert isinstance(broken_link, UnreadableObject)
    assert broken_link.code is Code.NOT_FOUND
    assert broken_link.message.startswith(f"{tmp_path}/self: ")
    assert sorted(by_name) == ["b.jpg", "linked/a.jpg", "real/a.jpg"]
    assert {type(info) for info in by_name.values()} == {ObjectInfo}


def test_a_walk_leaves_out_pipes_and_sockets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        assert [info.uri for info in listing(tmp_path)] == [f"{tmp_path}/a.jpg"]
    with pytest.raises(StorageError, match="is a pipe, socket or device, not a file"):
        STORE.read(str(tmp_path / "pipe.jpg"))


def test_a_name_that_is_not_utf8_is_listed_as_unreadable(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    (found,) = listing(tmp_path)
    assert found.uri == f"{tmp_path}/caf\\xe9.jpg"
    assert isinstance(found, UnreadableObject)
    assert (found.code, found.size_bytes) == (Code.BAD_NAME, 1)
    found.uri.encode("utf-8")


def test_a_folder_that_may_not_be_read_is_denied_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = os.fsencode(tmp_path / "closed")
    os.mkdir(closed)
    scandir = os.scandir

    def refuse(path: bytes) -> Iterator[os.DirEntry[bytes]]:  # root, who may run the tests, ignores file modes
        if path.startswith(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"/closed/: permission denied; check the owner") as caught:
        listing(tmp_path)
    assert caught.value.code is Code.DENIED


def test_pages_have_a_bounded_size(tmp_path: Path) -> None:
    for n in range(2500):
        (tmp_path / f"{n:04}.jpg").touch()
    assert [len(page) for page in STORE.walk(str(tmp_path))] == [1000, 1000, 500]
    assert [info.uri[-8:] for info in listing(tmp_path)] == [f"{n:04}.jpg" for n in range(2500)]


def test_a_file_that_changes_while_it_is_read_is_a_transient_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 100)
    pread = os.pread

    def slow(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        with path.open("ab") as file:
            file.write(b"more")
        return data

    monkeypatch.setattr(os, "pread", slow)
    with pytest.raises(StorageError, match="changed while it was read") as caught:
        STORE.read(str(path))
    assert (caught.value.code, caught.value.transient) == (Code.CHANGED, True)


def test_the_error_of_a_full_disk_says_what_to_do_and_no_temporary_file_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    STORE.write(str(tmp_path / "part"), b"before")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = r"/part: no space left on the device; free some, then run the same command to resume"
    with pytest.raises(StorageError, match=message) as caught:
        STORE.write(str(tmp_path / "part"), b"after")
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, False)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert (tmp_path / "part").read_bytes() == b"before"


def test_a_killed_write_leaves_the_old_file_and_a_recognisable_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "part.parquet"
    STORE.write(str(target), b"before")
    program = """
        import os, signal, sys
        from batchtag.storage.local import LocalStore
        os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        LocalStore().write(sys.argv[1], b"after")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(target)], check=False)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.glob("*.parquet")) == [target]
    (temporary,) = [path for path in tmp_path.iterdir() if path != target]
    assert is_unfinished_write(temporary.name)
    assert is_unfinished_write(str(temporary))


@pytest.mark.parametrize(
    "name", ["part.parquet", ".x.jpg", "a.tmp", ".lease.json.lock", "x.batchtag-0123456789abcdef.tmp"]
)
def test_other_files_are_not_taken_for_unfinished_writes(name: str) -> None:
    assert not is_unfinished_write(name)


def test_of_several_processes_that_write_if_absent_exactly_one_succeeds(tmp_path: Path) -> None:
    program = """
        import sys
        from batchtag.errors import ConditionFailed
        from batchtag.storage.local import LocalStore
        won = 0
        for n in range(20):
            try:
                LocalStore().write_if(f"{sys.argv[1]}/{n}", b"mine", expected="absent")
                won += 1
            except ConditionFailed:
                pass
        print(won)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(writer.communicate()[0]) for writer in writers) == 20


def test_conditional_writes_within_one_clock_tick_have_different_etags(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease")
    etags = [STORE.write_if(uri, b"aaaa", expected=ABSENT)]
    for _ in range(50):
        etags.append(STORE.write_if(uri, b"bbbb", expected=etags[-1]))
    assert len(set(etags)) == 51
    with pytest.raises(ConditionFailed, match="another process wrote it"):
        STORE.write_if(uri, b"cccc", expected=etags[0])


def test_paths_that_are_not_files_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in (str(tmp_path), f"{tmp_path}/file/x", f"{tmp_path}/{'x' * 300}", f"{tmp_path}/a\0b"):
        with pytest.raises(StorageError) as caught:
            STORE.read(uri)
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(StorageError):
            STORE.stat(uri)


def test_a_file_uri_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert STORE.read(f"file://{tmp_path}/a.jpg").data == b"x"


def test_a_written_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        STORE.write(str(tmp_path / "part"), b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o640

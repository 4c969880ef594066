"""What only a local disk has: half-written files, links, odd names, changes under the reader's hands."""

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
from batchtag.storage.base import ObjectInfo
from batchtag.storage.local import LocalStore, is_debris

STORE = LocalStore()


def listing(folder: Path | str) -> list[ObjectInfo]:
    return [one for page in STORE.walk(str(folder)) for one in page]


def test_a_walk_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"x")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    found = {one.uri.removeprefix(f"{tmp_path}/"): one.problem for one in listing(tmp_path)}
    assert found.pop("self").startswith("not_found: ")
    assert found == {"b.jpg": "", "linked/a.jpg": "", "real/a.jpg": ""}


def test_a_walk_passes_over_pipes_and_sockets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        assert [one.uri for one in listing(tmp_path)] == [f"{tmp_path}/a.jpg"]
    with pytest.raises(StorageError, match="is a pipe, socket or device, not a file"):
        STORE.read(str(tmp_path / "pipe.jpg"))


def test_a_name_that_is_not_utf8_is_listed_with_its_problem(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    (found,) = listing(tmp_path)
    assert found.uri == f"{tmp_path}/caf\\xe9.jpg"
    assert found.problem.startswith("bad_name: ")
    found.uri.encode("utf-8")


def test_a_folder_that_may_not_be_read_is_denied_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = os.fsencode(tmp_path / "closed")
    os.mkdir(closed)
    scandir = os.scandir

    def refusing(path: bytes) -> Iterator[os.DirEntry[bytes]]:  # modes do not bind the root user of a test machine
        if path.startswith(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StorageError, match=r"/closed/: permission denied; check the owner") as caught:
        listing(tmp_path)
    assert caught.value.code is Code.DENIED


def test_pages_are_of_bounded_size(tmp_path: Path) -> None:
    for n in range(2500):
        (tmp_path / f"{n:04}.jpg").touch()
    assert [len(page) for page in STORE.walk(str(tmp_path))] == [1000, 1000, 500]
    assert [one.uri[-8:] for one in listing(tmp_path)] == [f"{n:04}.jpg" for n in range(2500)]


def test_a_file_that_changes_while_it_is_read_is_changed_and_may_be_tried_again(
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


def test_a_full_disk_says_what_to_do_and_leaves_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    STORE.write(str(tmp_path / "part"), b"before")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = r"/part: no space left on the device; free some and run again: it goes on where it stopped"
    with pytest.raises(StorageError, match=message) as caught:
        STORE.write(str(tmp_path / "part"), b"after")
    assert (caught.value.code, caught.value.transient) == (Code.UNREACHABLE, False)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert (tmp_path / "part").read_bytes() == b"before"


def test_a_write_that_is_killed_leaves_the_old_file_and_recognisable_debris(tmp_path: Path) -> None:
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
    (debris,) = [path for path in tmp_path.iterdir() if path != target]
    assert is_debris(debris.name)
    assert is_debris(str(debris))


@pytest.mark.parametrize(
    "name", ["part.parquet", ".x.jpg", "a.tmp", ".lease.json.lock", "x.batchtag-0123456789abcdef.tmp"]
)
def test_other_files_are_no_debris(name: str) -> None:
    assert not is_debris(name)


def test_of_many_processes_that_write_if_absent_one_wins(tmp_path: Path) -> None:
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


def test_conditional_writes_in_one_tick_of_the_clock_have_different_etags(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease")
    etags = [STORE.write_if(uri, b"aaaa", expected=ABSENT)]
    for _ in range(50):
        etags.append(STORE.write_if(uri, b"bbbb", expected=etags[-1]))
    assert len(set(etags)) == 51
    with pytest.raises(ConditionFailed, match="somebody else wrote it"):
        STORE.write_if(uri, b"cccc", expected=etags[0])


def test_paths_that_are_no_files_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in (str(tmp_path), f"{tmp_path}/file/x", f"{tmp_path}/{'x' * 300}", f"{tmp_path}/a\0b"):
        with pytest.raises(StorageError) as caught:
            STORE.read(uri)
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(StorageError):
            STORE.stat(uri)


def test_a_file_uri_is_understood(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert STORE.read(f"file://{tmp_path}/a.jpg").data == b"x"


def test_a_written_file_has_the_mode_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        STORE.write(str(tmp_path / "part"), b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o640

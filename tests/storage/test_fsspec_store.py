"""Other file systems of fsspec: packages that are missing, and paths that fsspec would change."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import fsspec
import pytest

from batchtag.errors import Code, StorageError
from batchtag.storage import Store, open_store
from tests.storage.faulty_s3 import BODY, FaultyS3, send_error


@pytest.fixture
def root() -> str:
    return f"memory://{uuid.uuid4().hex}"


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure"), ("abfss", "adlfs", "azure")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not installed, and {scheme}:// needs it: pip install 'batchtag\[{extra}\]'"
    with pytest.raises(StorageError, match=message):
        open_store(f"{scheme}://photos/a.jpg", {"project": uuid.uuid4().hex})


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StorageError, match="nonsense:// needs a package that is not installed"):
        open_store("nonsense://photos/a.jpg")


def test_a_uri_that_fsspec_would_read_as_another_is_refused(root: str) -> None:
    store = open_store(root)
    store.write(f"{root}/a", b"x")
    with pytest.raises(StorageError, match="which is another object") as caught:
        store.read(f"{root}/a/")
    assert caught.value.code is Code.BAD_NAME


def test_a_listing_is_not_cached(root: str) -> None:
    store = open_store(root)
    for n in range(3):
        store.write(f"{root}/{n}.jpg", b"x")
        assert sum(len(page) for page in store.walk(root)) == n + 1


def test_a_file_system_without_atomic_writes_gets_a_temporary_file_that_is_moved(tmp_path: Path) -> None:
    store = open_store("local://" + str(tmp_path))
    uri = f"local://{tmp_path}/new/a.txt"
    store.write(uri, b"one")
    store.write(uri, b"two")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert store.read(uri).data == b"two"


class TestHttp:
    """A web server: many data sets are published on one."""

    @pytest.fixture
    def web(self) -> Store:
        fsspec.get_filesystem_class("http")
        return open_store("http://127.0.0.1")

    def test_an_image_is_read_by_its_url(self, web: Store) -> None:
        with FaultyS3().running() as server:
            assert web.read(f"{server.url}/a%20b.jpg?size=full").data == BODY
            assert server.requests == ["GET /a%20b.jpg?size=full HTTP/1.1"]

    @pytest.mark.parametrize(
        ("status", "code", "transient"),
        [
            (404, Code.NOT_FOUND, False),
            (403, Code.DENIED, False),
            (416, Code.TRUNCATED, False),
            (429, Code.THROTTLED, True),
            (503, Code.THROTTLED, True),
            (500, Code.UNREACHABLE, True),
            (418, Code.UNREACHABLE, False),
        ],
    )
    def test_each_http_status_has_its_code(self, web: Store, status: int, code: Code, transient: bool) -> None:
        with FaultyS3().running() as server:
            server.script = [send_error(status, "Any")]
            with pytest.raises(StorageError) as caught:
                web.read(f"{server.url}/a.jpg")
        assert (caught.value.code, caught.value.transient) == (code, transient)

    def test_a_write_is_refused(self, web: Store) -> None:
        with pytest.raises(StorageError, match="a web server cannot be written to; choose a folder or a bucket"):
            web.write("http://127.0.0.1/a.jpg", b"x")

"""The second shape of the line on real Ray: the tables of the first, also when openers are killed."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from batchtag.analysis.verify import verify
from batchtag.errors import UsageError
from tests.integration.conftest import Tag
from tests.integration.test_line import draw, sql

ROWS = "select uri, etag, content_hash, width, height, status, num_tags, position from images order by position"


def test_openers_give_the_tables_that_workers_give(tag: Tag, shared_data: Path, tmp_path: Path) -> None:
    """On every hostile file: what fails there fails with the same word."""
    source = {"kind": "prefix", "uris": [str(shared_data / "hostile")], "include": ["*"]}
    for shape in ("with_models", "own_pool"):
        compute = {"decode": shape, "actors": 1, "cpus_per_actor": 1, "bundle_size": 128}
        models = [{"kind": "constant", "seconds_per_image": 0.03 if shape == "own_pool" else 0.0}]
        report = tag(source, str(tmp_path / shape), models=models, max_failure_rate=1.0, compute=compute)
        assert (report.state, report.this_run["opened_elsewhere"] > 50) == ("done", shape == "own_pool")
        assert verify(str(tmp_path / shape)).ok
    for query in (ROWS, "select uri, stage, code, message from errors order by uri"):
        assert sql(tmp_path / "own_pool", query) == sql(tmp_path / "with_models", query)


def test_killed_openers_lose_and_repeat_nothing(tag: Tag, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = draw(tmp_path / "in", 280)
    over = threading.Event()
    killed: set[int] = set()

    def kill_twice() -> None:
        while not over.wait(0.05) and len(killed) < 2:
            parts = len(list((out / "images").glob("*.parquet")))
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if parts > 3 * len(killed) and process.cmdline()[:1] == ["ray::Opener"]:
                        process.kill()
                        killed.add(process.pid)
                        break

    killer = threading.Thread(target=kill_twice)
    killer.start()
    try:
        compute = {"decode": "own_pool", "actors": 1, "cpus_per_actor": 1, "bundle_size": 40}
        models = [{"kind": "constant", "seconds_per_image": 0.05}]
        report = tag(str(images), str(out), models=models, compute=compute)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    assert (report.num_tagged, report.num_failed) == (280, 0)
    assert verify(str(out)).ok


def test_an_own_pool_without_room_for_it_is_refused(tag: Tag, tmp_path: Path) -> None:
    images = draw(tmp_path / "in", 3)
    with pytest.raises(UsageError, match=r"compute\.decode is 'own_pool' and of 3 CPUs too few are left"):
        tag(str(images), str(tmp_path / "out"), compute={"decode": "own_pool", "actors": 1, "cpus_per_actor": 2})

"""Separate decode workers on real Ray write the same tables as workers that decode, also when they are killed."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from batchtag.analysis.verify import verify
from batchtag.errors import UsageError
from tests.integration.conftest import Tag
from tests.support.tables import query_tables, write_jpegs

IMAGE_ROWS = "select uri, etag, content_hash, width, height, status, num_tags, position from images order by position"
ERROR_ROWS = "select uri, stage, code, message from errors order by uri"


def test_decode_workers_give_every_hostile_file_the_same_rows_as_a_worker_that_decodes(
    tag: Tag, shared_data: Path, tmp_path: Path
) -> None:
    source = {"kind": "prefix", "uris": [str(shared_data / "hostile")], "include": ["*"]}
    for decode in ("with_models", "separate"):
        compute = {"decode": decode, "actors": 1, "cpus_per_actor": 1, "bundle_size": 128}
        models = [{"kind": "constant", "seconds_per_image": 0.03 if decode == "separate" else 0.0}]
        report = tag(source, str(tmp_path / decode), models=models, max_failure_rate=1.0, compute=compute)
        assert (report.state, report.this_run["decoded_remotely"] > 50) == ("done", decode == "separate")
        assert verify(str(tmp_path / decode)).ok
    for sql in (IMAGE_ROWS, ERROR_ROWS):
        assert query_tables(tmp_path / "separate", sql) == query_tables(tmp_path / "with_models", sql)


@pytest.mark.slow
def test_decode_workers_that_are_killed_lose_and_repeat_no_image(tag: Tag, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = write_jpegs(tmp_path / "in", 280)
    is_over = threading.Event()
    killed: set[int] = set()

    def kill_two_decode_workers() -> None:
        while not is_over.wait(0.05) and len(killed) < 2:
            num_parts = len(list((out / "images").glob("*.parquet")))
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if num_parts > 3 * len(killed) and process.cmdline()[:1] == ["ray::DecodeWorker"]:
                        process.kill()
                        killed.add(process.pid)
                        break

    killer = threading.Thread(target=kill_two_decode_workers)
    killer.start()
    try:
        compute = {"decode": "separate", "actors": 1, "cpus_per_actor": 1, "bundle_size": 40}
        models = [{"kind": "constant", "seconds_per_image": 0.05}]
        report = tag(str(images), str(out), models=models, compute=compute)
    finally:
        is_over.set()
        killer.join()
    assert len(killed) == 2
    assert (report.num_tagged, report.num_failed) == (280, 0)
    assert verify(str(out)).ok


def test_separate_decoding_without_a_cpu_for_it_is_refused(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "in", 3)
    with pytest.raises(UsageError, match=r"compute\.decode is 'separate', and of 3 CPUs too few remain"):
        tag(str(images), str(tmp_path / "out"), compute={"decode": "separate", "actors": 1, "cpus_per_actor": 2})

"""Bad input gets one clear line, before anything is read where that is possible, and nothing is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from batchtag.analysis.verify import verify
from batchtag.cli import main
from batchtag.errors import ModelError, OutputError, StorageError, TooManyFailures
from tests.integration.conftest import Tag
from tests.integration.test_line import draw
from tests.support.s3server import S3Server

Said = tuple[int, str]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Call the command line in this process: its exit code and what it said on stderr. For what fails before Ray."""

    def call(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["batchtag", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, capsys.readouterr().err

    return call


def test_a_folder_that_is_not_there_is_named(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, text = say("run", str(tmp_path / "photoz"), "--out", str(tmp_path / "out"))
    assert code == 1
    assert str(tmp_path / "photoz") in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_says_how_to_take_other_names(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("no image")
    code, text = say("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "no images" in text
    assert "--include" in text


def test_a_bucket_that_is_not_there_is_named(  # type: ignore[no-untyped-def]
    say, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    code, text = say("run", "s3://no-such-bucket/2026/", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "no-such-bucket" in text
    assert len(text.splitlines()) == 1


def test_a_manifest_without_the_column_lists_the_columns_it_has(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "list.csv").write_text("url,size\na.jpg,1\n")
    (tmp_path / "job.yaml").write_text(
        f"version: 1\nsource: {{kind: manifest, uri: {tmp_path}/list.csv}}\nmodels: [{{kind: constant}}]\n"
        f"output: {{uri: {tmp_path}/out}}\n"
    )
    code, text = say("run", str(tmp_path / "job.yaml"))
    assert code == 2
    assert "'uri'" in text
    assert "url" in text


def test_out_inside_the_source_is_refused(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw(tmp_path / "in", 1)
    code, text = say("run", str(tmp_path / "in"), "--out", str(tmp_path / "in/tags"))
    assert code == 2
    assert "inside the source" in text


def test_an_out_that_cannot_be_written_is_named(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw(tmp_path / "in", 1)
    (tmp_path / "file").write_text("in the way")
    code, text = say("run", str(tmp_path / "in"), "--out", str(tmp_path / "file/tags"))
    assert code == 1
    assert str(tmp_path / "file") in text
    assert len(text.splitlines()) == 1


def test_a_job_file_with_five_mistakes_gets_five_lines(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "job.yaml").write_text(
        "version: 1\nsource: {kind: prefix, uris: []}\nmodels: [{kind: constant, score: 2}]\n"
        "output: {}\ncompute: {fetchs: 3}\nmax_failure_rate: lots\n"
    )
    code, text = say("run", str(tmp_path / "job.yaml"))
    assert code == 2
    for path in ("source.uris", "models[0].score", "output.uri", "compute.fetchs", "max_failure_rate"):
        assert path in text
    assert len(text.splitlines()) == 5


def test_a_second_run_on_the_same_out_is_refused_and_names_the_first(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from batchtag.output.layout import Layout
    from batchtag.output.lease import Lease
    from batchtag.storage import open_store

    draw(tmp_path / "in", 1)
    out = str(tmp_path / "out")
    held = Lease(Layout(out).lease, store=open_store(out), run_id="r-first")
    held.acquire()
    code, text = say("run", str(tmp_path / "in"), "--out", out)
    held.release()
    assert code == 1
    assert "r-first" in text


def test_weights_that_cannot_be_fetched_fail_the_run_before_any_image_is_read(
    tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "empty-mirror"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    draw(tmp_path / "in", 2)
    with pytest.raises(ModelError, match="BATCHTAG_WEIGHTS"):
        tag(str(tmp_path / "in"), str(tmp_path / "out"), models=[{"kind": "torchvision", "builder": "resnet18"}])
    assert not (tmp_path / "out/images").exists()


def test_a_checkpoint_whose_digest_does_not_match_is_refused(tag: Tag, tmp_path: Path) -> None:
    import torchvision

    from batchtag.models.checkpoint.model import save_checkpoint

    folder = tmp_path / "checkpoint"
    network = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3)
    save_checkpoint(
        str(folder),
        architecture="squeezenet1_1",
        arguments={},
        labels=["a", "b", "c"],
        task="classify",
        preprocessing={"resize_size": 40, "crop_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        state_dict=network.state_dict(),
    )
    weights = folder / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    draw(tmp_path / "in", 2)
    with pytest.raises(ModelError, match="sha256"):
        tag(str(tmp_path / "in"), str(tmp_path / "out"), models=[{"kind": "checkpoint", "uri": str(folder)}])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is full")
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on_when_there_is_room(tag: Tag, tmp_path: Path) -> None:
    images, disk = draw(tmp_path / "in", 400), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system could be mounted here: {mounted.stderr.decode().strip()}")
    try:
        out = disk / "out"
        with pytest.raises(StorageError, match="no space left"):
            tag(str(images), str(out), compute={"bundle_size": 20})
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        report = tag(str(images), str(out))
        assert report.num_tagged == 400
        assert verify(str(out)).ok
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_an_object_replaced_after_the_listing_is_tagged_as_it_is_now(tag: Tag, tmp_path: Path) -> None:
    import duckdb

    images, out = draw(tmp_path / "in", 70), tmp_path / "out"
    tag(str(images), str(out), compute={"bundle_size": 64})
    (out / "images/part-000000000064-000000000069.parquet").unlink()
    replaced = images / "0065.jpg"
    Image.new("RGB", (99, 77)).save(replaced)
    os.utime(replaced, (time.time() + 5, time.time() + 5))
    (images / "0066.jpg").unlink()
    report = tag(str(images), str(out))
    assert report.failed_by_code == {"not_found": 1}
    with duckdb.connect() as database:
        found = database.execute(
            f"select width, height, etag from '{out}/images/*.parquet' where uri = ?", [str(replaced)]
        ).fetchone()
    assert found is not None
    assert found[:2] == (99, 77)
    index = json.loads((out / "_batchtag/index.json").read_text())
    assert index["num_images"] == 70
    assert verify(str(out)).ok


def test_a_lost_lease_stops_the_writer(tmp_path: Path) -> None:
    from batchtag.output.layout import Layout
    from batchtag.output.lease import Lease, check_lease
    from batchtag.storage import open_store

    out = str(tmp_path / "out")
    lease = Lease(Layout(out).lease, store=open_store(out), run_id="r-new")
    lease.acquire()
    with pytest.raises(OutputError, match="r-new"):
        check_lease(Layout(out).lease, store=open_store(out), run_id="r-old")
    lease.release()


def test_a_cluster_that_does_not_answer_is_named_and_waited_for_no_longer(  # type: ignore[no-untyped-def]
    say, tmp_path: Path
) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        draw(tmp_path / "in", 2)
        words = ("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--classifier", "constant")
        code, text = say(*words, "--address", address)
    assert code == 1
    assert f"could not join the Ray cluster at {address}" in text.splitlines()[-1]
    assert not (tmp_path / "out/_batchtag/lease.json").exists()


def test_a_damaged_file_of_a_run_is_named(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    draw(tmp_path / "in", 1)
    index = tmp_path / "out/_batchtag/index.json"
    index.parent.mkdir(parents=True)
    index.write_text('{"version": 1, "num_')
    code, text = say("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert code == 1
    assert f"{index}: is damaged" in text


def test_a_run_without_out_asks_for_it(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, text = say("run", str(tmp_path))
    assert (code, text) == (2, "batchtag: --out is missing: name the folder or URI for the tables\n")


def test_a_key_cannot_act_on_the_terminal(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, text = say("run", f"{tmp_path}/a\n\x1b[31mred", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "\x1b" not in text


def test_a_failed_run_gives_its_record_to_machines_too(tag: Tag, tmp_path: Path) -> None:
    images = draw(tmp_path / "in", 3)
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(TooManyFailures) as stopped:
        tag(str(images), str(tmp_path / "out"))
    report = stopped.value.report  # type: ignore[attr-defined]
    assert (report.state, report.num_failed, report.failed_by_code) == ("too_many_failures", 3, {"empty": 3})

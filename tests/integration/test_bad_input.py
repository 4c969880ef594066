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
from batchtag.errors import ModelError, OutputError, StorageError, TooManyFailures
from batchtag.output.layout import Layout
from batchtag.output.lease import Lease, check_lease
from batchtag.storage import open_store
from tests.integration.conftest import Tag
from tests.support.s3server import S3Server
from tests.support.started import RunCommand
from tests.support.tables import query_tables, write_jpegs


def test_a_folder_that_does_not_exist_is_named(run_command: RunCommand, tmp_path: Path) -> None:
    code, _, stderr = run_command("run", str(tmp_path / "photoz"), "--out", str(tmp_path / "out"))
    assert code == 1
    assert str(tmp_path / "photoz") in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_names_the_option_for_other_names(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("no image")
    code, _, stderr = run_command("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "no images" in stderr
    assert "--include" in stderr


def test_a_bucket_that_does_not_exist_is_named(
    run_command: RunCommand, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    code, _, stderr = run_command("run", "s3://no-such-bucket/2026/", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "no-such-bucket" in stderr
    assert len(stderr.splitlines()) == 1


def test_a_manifest_without_the_column_names_the_columns_that_it_has(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,size\na.jpg,1\n")
    (tmp_path / "job.yaml").write_text(
        f"version: 1\nsource: {{kind: manifest, uri: {tmp_path}/list.csv}}\nmodels: [{{kind: constant}}]\n"
        f"output: {{uri: {tmp_path}/out}}\n"
    )
    code, _, stderr = run_command("run", str(tmp_path / "job.yaml"))
    assert code == 2
    assert "'uri'" in stderr
    assert "url" in stderr


def test_an_out_inside_the_source_is_refused(run_command: RunCommand, tmp_path: Path) -> None:
    write_jpegs(tmp_path / "in", 1)
    code, _, stderr = run_command("run", str(tmp_path / "in"), "--out", str(tmp_path / "in/tags"))
    assert code == 2
    assert "inside the source" in stderr


def test_an_out_that_cannot_be_written_is_named(run_command: RunCommand, tmp_path: Path) -> None:
    write_jpegs(tmp_path / "in", 1)
    (tmp_path / "file").write_text("a file where a folder is needed")
    code, _, stderr = run_command("run", str(tmp_path / "in"), "--out", str(tmp_path / "file/tags"))
    assert code == 1
    assert str(tmp_path / "file") in stderr
    assert len(stderr.splitlines()) == 1


def test_a_job_file_with_five_mistakes_gets_five_lines(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "version: 1\nsource: {kind: prefix, uris: []}\nmodels: [{kind: constant, score: 2}]\n"
        "output: {}\ncompute: {fetchs: 3}\nmax_failure_rate: lots\n"
    )
    code, _, stderr = run_command("run", str(tmp_path / "job.yaml"))
    assert code == 2
    for path in ("source.uris", "models[0].score", "output.uri", "compute.fetchs", "max_failure_rate"):
        assert path in stderr
    assert len(stderr.splitlines()) == 5


def test_a_second_run_on_the_same_out_is_refused_and_names_the_first(run_command: RunCommand, tmp_path: Path) -> None:
    write_jpegs(tmp_path / "in", 1)
    out = str(tmp_path / "out")
    lease_of_first = Lease(Layout(out).lease, store=open_store(out), run_id="r-first")
    lease_of_first.acquire()
    code, _, stderr = run_command("run", str(tmp_path / "in"), "--out", out)
    lease_of_first.release()
    assert code == 1
    assert "r-first" in stderr


def test_weights_that_cannot_be_fetched_fail_the_run_before_any_image_is_read(
    tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "empty-mirror"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    write_jpegs(tmp_path / "in", 2)
    with pytest.raises(ModelError, match="BATCHTAG_WEIGHTS"):
        tag(str(tmp_path / "in"), str(tmp_path / "out"), models=[{"kind": "torchvision", "builder": "resnet18"}])
    assert not (tmp_path / "out/images").exists()


def test_a_checkpoint_whose_digest_does_not_match_is_refused(tag: Tag, tmp_path: Path) -> None:
    import torchvision

    from batchtag.models.checkpoint.checkpoint_writer import CheckpointContent, save_checkpoint

    folder = tmp_path / "checkpoint"
    network = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3)
    save_checkpoint(
        str(folder),
        CheckpointContent(
            architecture="squeezenet1_1",
            labels=["a", "b", "c"],
            task="classify",
            preprocessing={"resize_size": 40, "crop_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
            state_dict=network.state_dict(),
        ),
    )
    weights = folder / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    write_jpegs(tmp_path / "in", 2)
    with pytest.raises(ModelError, match="sha256"):
        tag(str(tmp_path / "in"), str(tmp_path / "out"), models=[{"kind": "checkpoint", "uri": str(folder)}])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is full")
def test_a_full_disk_stops_the_run_and_the_same_command_continues_when_there_is_space(tag: Tag, tmp_path: Path) -> None:
    images, disk = write_jpegs(tmp_path / "in", 400), tmp_path / "disk"
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


def test_an_object_that_changed_after_the_listing_is_tagged_as_it_is_now(tag: Tag, tmp_path: Path) -> None:
    images, out = write_jpegs(tmp_path / "in", 70), tmp_path / "out"
    tag(str(images), str(out), compute={"bundle_size": 64})
    (out / "images/part-000000000064-000000000069.parquet").unlink()
    changed = images / "0065.jpg"
    Image.new("RGB", (99, 77)).save(changed)
    os.utime(changed, (time.time() + 5, time.time() + 5))
    (images / "0066.jpg").unlink()
    report = tag(str(images), str(out))
    assert report.failed_by_code == {"not_found": 1}
    assert query_tables(out, f"select width, height from images where uri = '{changed}'") == [(99, 77)]
    index = json.loads((out / "_batchtag/index.json").read_text())
    assert index["num_images"] == 70
    assert verify(str(out)).ok


def test_a_run_that_lost_its_lease_may_not_write(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    lease = Lease(Layout(out).lease, store=open_store(out), run_id="r-new")
    lease.acquire()
    with pytest.raises(OutputError, match="r-new"):
        check_lease(Layout(out).lease, store=open_store(out), run_id="r-old")
    lease.release()


def test_a_cluster_that_does_not_answer_is_named_and_the_lease_is_released(
    run_command: RunCommand, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        write_jpegs(tmp_path / "in", 2)
        words = ("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--classifier", "constant")
        code, _, stderr = run_command(*words, "--address", address)
    assert code == 1
    assert f"could not join the Ray cluster at {address}" in stderr.splitlines()[-1]
    assert not (tmp_path / "out/_batchtag/lease.json").exists()


def test_a_damaged_file_of_a_run_is_named(run_command: RunCommand, tmp_path: Path) -> None:
    write_jpegs(tmp_path / "in", 1)
    index = tmp_path / "out/_batchtag/index.json"
    index.parent.mkdir(parents=True)
    index.write_text('{"version": 1, "num_')
    code, _, stderr = run_command("run", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert code == 1
    assert f"{index}: is damaged" in stderr


def test_a_run_without_out_asks_for_it(run_command: RunCommand, tmp_path: Path) -> None:
    code, _, stderr = run_command("run", str(tmp_path))
    assert (code, stderr) == (2, "batchtag: --out is missing: name the folder or URI for the tables\n")


def test_control_characters_of_a_key_do_not_reach_the_terminal(run_command: RunCommand, tmp_path: Path) -> None:
    code, _, stderr = run_command("run", f"{tmp_path}/a\n\x1b[31mred", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "\x1b" not in stderr


def test_the_error_of_a_failed_run_carries_its_report(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "in", 3)
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(TooManyFailures) as stopped:
        tag(str(images), str(tmp_path / "out"))
    report = stopped.value.report  # type: ignore[attr-defined]
    assert (report.state, report.num_failed, report.failed_by_code) == ("too_many_failures", 3, {"empty": 3})

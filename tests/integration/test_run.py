"""Whole runs on real Ray: every object gets one outcome, and the same command again does what remains."""

from __future__ import annotations

import csv
import json
import os
import threading
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from batchtag.analysis.query import query
from batchtag.analysis.verify import verify
from batchtag.cluster.session import RaySession
from batchtag.errors import BatchtagError, Interrupted, OutputError, TooManyFailures
from batchtag.output.layout import Layout
from batchtag.output.lease import Lease
from batchtag.runs.progress import ProgressDisplay, RunProgress
from tests.integration.conftest import Tag
from tests.support.s3server import S3Server
from tests.support.tables import query_tables, write_jpegs


def test_every_image_is_tagged_once_and_verify_proves_it(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "a b%20#", 150)
    report = tag(str(images), str(tmp_path / "out"), compute={"bundle_size": 64})
    assert (report.state, report.num_tagged, report.num_failed, report.num_tags) == ("done", 150, 0, 150)
    assert verify(str(tmp_path / "out")).ok
    uris = {row[0] for row in query_tables(tmp_path / "out", "select uri from images")}
    assert uris == {str(path) for path in images.iterdir()}


def test_the_same_command_again_does_only_what_remains(tag: Tag, tmp_path: Path) -> None:
    images, out = write_jpegs(tmp_path / "in", 200), tmp_path / "out"
    first = tag(str(images), str(out), compute={"bundle_size": 64})
    lost_part = sorted((out / "images").iterdir())[1]
    lost_part.unlink()
    second = tag(str(images), str(out))
    assert second.this_run["images"] == 64
    assert (second.num_done, second.num_tags) == (first.num_done, first.num_tags) == (200, 200)
    assert verify(str(out)).ok
    images_by_run = query_tables(out, "select run_id, count(*) from images group by 1 order by 2")
    assert images_by_run == [(second.run_id, 64), (first.run_id, 136)]
    third = tag(str(images), str(out))
    assert third.this_run["images"] == 0


def test_a_run_that_gets_the_lease_second_continues_with_the_index_of_the_first(
    tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = write_jpegs(tmp_path / "in", 5), tmp_path / "out"

    class LeaseAfterAnotherRun(Lease):
        """A lease that is free only when another run, which started after this one had read OUT, has ended."""

        def acquire(self) -> str:
            monkeypatch.setattr("batchtag.runs.driver.Lease", Lease)
            (images / "0004.jpg").unlink()
            tag(str(images), str(out))
            return super().acquire()

    monkeypatch.setattr("batchtag.runs.driver.Lease", LeaseAfterAnotherRun)
    report = tag(str(images), str(out))
    assert (report.num_images, report.this_run["images"]) == (4, 0)
    assert verify(str(out)).ok


def test_every_hostile_file_has_the_outcome_that_its_manifest_names(
    tag: Tag, shared_data: Path, tmp_path: Path
) -> None:
    hostile = shared_data / "hostile"
    with (hostile / "MANIFEST.csv").open(newline="") as file:
        manifest = {row["file"]: row for row in csv.DictReader(file)}
    groups = sorted({name.split("/")[0] for name in manifest})
    source = {"kind": "prefix", "uris": [f"{hostile}/{group}" for group in groups], "include": ["*"]}
    report = tag(source, str(tmp_path / "out"), max_failure_rate=1.0)
    assert report.num_done >= len(manifest) == 354
    assert verify(str(tmp_path / "out")).ok
    rows = query_tables(tmp_path / "out", "select uri, status, width, height from images")
    outcomes = {os.path.relpath(str(uri), hostile): (status, width, height) for uri, status, width, height in rows}
    wrong = [
        (name, outcomes[name], row["decodable"], row["with_pillow_heif"])
        for name, row in manifest.items()
        if outcomes[name] != _expected_outcome(row)
    ]
    assert wrong == []
    failed = query_tables(tmp_path / "out", "select count(*), count(distinct uri) from errors where stage = 'decode'")
    assert failed[0][0] == failed[0][1] == report.num_failed


def _expected_outcome(row: dict[str, str]) -> tuple[str, int | None, int | None]:
    """Return status, width and height that a row of the manifest demands."""
    if row["with_pillow_heif"].startswith("ok") and row["decodable"] == "no":
        try:
            import pillow_heif  # noqa: F401
        except ImportError:
            return ("failed", None, None)
        width, height = row["with_pillow_heif"].split()[2].split("x")
        return ("tagged", int(width), int(height))
    if row["decodable"] == "no":
        return ("failed", None, None)
    return ("tagged", int(row["width"]), int(row["height"]))


def test_unusual_keys_of_a_bucket_are_stored_byte_for_byte(
    tag: Tag, shared_data: Path, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    keys = [
        b64decode(entry["key_base64"]).decode()
        for entry in json.loads((shared_data / "nasty_keys.json").read_text())
        if entry["valid_s3_key"]
    ]
    uris = {f"{bucket}/{key}" for key in keys}
    image = tmp_path / "one.png"
    Image.new("RGB", (8, 6)).save(image)
    s3.put({uri: image.read_bytes() for uri in uris})
    options = dict(s3.storage_options)
    source = {"kind": "prefix", "uris": [bucket], "include": ["*"], "storage_options": options}
    out = s3.new_bucket() + "/tags here"
    report = tag(source, out, output={"uri": out, "storage_options": options})
    assert report.num_tagged == len(uris) == len(set(keys))
    verified = verify(out, storage_options=options)
    assert verified.ok, verified.summary()
    stored = query(out, "select uri from images", storage_options=options)
    assert set(stored.column("uri").to_pylist()) == uris


def test_secrets_are_in_no_file_that_a_run_writes(tag: Tag, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    image = tmp_path / "one.png"
    Image.new("RGB", (8, 6)).save(image)
    s3.put({f"{bucket}/a.png": image.read_bytes(), f"{bucket}/broken.png": b"\x89PNG\r\n\x1a\n"})
    source = {"kind": "prefix", "uris": [bucket], "storage_options": dict(s3.storage_options)}
    tag(source, str(tmp_path / "out"), max_failure_rate=1.0)
    secret = str(s3.storage_options["secret"]).encode()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert [path for path in files if secret in path.read_bytes()] == []


def test_too_many_failures_stop_the_run_with_the_commonest_code_and_an_example(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "in", 300)
    for path in sorted(images.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TooManyFailures) as stopped:
        tag(str(images), str(tmp_path / "out"), compute={"bundle_size": 300})
    assert stopped.value.exit_code == 3
    assert "truncated" in stopped.value.message
    assert str(images) in stopped.value.message
    record = json.loads(next((tmp_path / "out/_batchtag/runs").iterdir()).read_text())
    assert record["state"] == "too_many_failures"
    allowed = tag(str(images), str(tmp_path / "out"), max_failure_rate=0.5)
    assert (allowed.num_tagged, allowed.num_failed) == (150, 150)
    assert verify(str(tmp_path / "out")).ok


def test_another_job_is_refused_on_the_same_out_with_what_differs(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "in", 3)
    tag(str(images), str(tmp_path / "out"))
    with pytest.raises(OutputError, match=r"models\[0\].*choose another --out"):
        tag(str(images), str(tmp_path / "out"), models=[{"kind": "constant", "tag": "other"}])
    with pytest.raises(OutputError, match=r"decode.max_pixels was 178956970 and is 1000 now"):
        tag(str(images), str(tmp_path / "out"), decode={"max_pixels": 1000})


def test_an_unknown_builder_fails_before_any_image_is_read_with_the_nearest_name(tag: Tag, tmp_path: Path) -> None:
    images = write_jpegs(tmp_path / "in", 3)
    with pytest.raises(BatchtagError, match="resnet50"):
        tag(str(images), str(tmp_path / "out"), models=[{"kind": "torchvision", "builder": "resnet5O"}])
    assert not (tmp_path / "out/images").exists()


def test_a_detector_and_a_classifier_of_its_crops_share_one_decoded_image(
    tag: Tag, shared_data: Path, tmp_path: Path
) -> None:
    detector = {
        "kind": "torchvision",
        "name": "things",
        "builder": "fasterrcnn_mobilenet_v3_large_320_fpn",
        "weights": "none",
        "score_floor": 0.0,
        "max_tags": 4,
    }
    classifier = {
        "kind": "torchvision",
        "name": "product",
        "builder": "mobilenet_v3_small",
        "weights": "none",
        "score_floor": 0.0,
        "max_tags": 2,
        "on": {"crops_of": "things", "min_score": 0.0},
    }
    out = tmp_path / "out"
    report = tag(str(shared_data / "photos/darknet"), str(out), models=[detector, classifier])
    assert report.num_tagged == 6
    assert verify(str(out)).ok
    classes_of_boxes = query_tables(
        out,
        "select count(*) from tags c join tags b "
        "on c.uri = b.uri and c.parent = b.model || '#' || b.rank where c.kind = 'class' and b.kind = 'object'",
    )
    assert classes_of_boxes == [(6 * 4 * 2,)]


@pytest.mark.slow
def test_an_image_that_the_decoder_does_not_finish_costs_one_worker_and_becomes_a_failure(
    tag: Tag, tmp_path: Path
) -> None:
    images = write_jpegs(tmp_path / "in", 5)
    # Pillow decodes this format in Python, one pixel at a time: some seconds for this image.
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "slow.qoi")
    report = tag(str(images), str(tmp_path / "out"), decode={"timeout_s": 1.0})
    assert (report.num_tagged, report.failed_by_code) == (5, {"timeout": 1})
    assert verify(str(tmp_path / "out")).ok


@pytest.mark.parametrize("phase", ["starting workers", "tagging"])
def test_no_thread_uses_ray_any_more_when_an_interrupted_run_ends_it(
    tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A thread of Ray Data that asked a Ray which had ended ended the whole process, and its lease stayed behind."""
    show, stop = ProgressDisplay.show, RaySession.stop
    running_threads: list[str] = []

    def show_and_interrupt(display: ProgressDisplay, progress: RunProgress) -> None:
        show(display, progress)
        is_executing = any(isinstance(thread, StreamingExecutor) for thread in threading.enumerate())
        if is_executing and progress.phase in (phase, "tagging"):
            raise KeyboardInterrupt

    def note_threads_and_stop(session: RaySession, *, keep_logs: bool) -> None:
        running_threads.extend(
            thread.name
            for thread in threading.enumerate()
            if isinstance(thread, StreamingExecutor) or thread.name == "commits"
        )
        stop(session, keep_logs=keep_logs)

    monkeypatch.setattr(ProgressDisplay, "show", show_and_interrupt)
    monkeypatch.setattr(RaySession, "stop", note_threads_and_stop)
    with pytest.raises(Interrupted):
        tag(
            str(write_jpegs(tmp_path / "in", 40)),
            str(tmp_path / "out"),
            models=[{"kind": "constant", "seconds_per_image": 3600.0}],
            compute={"bundle_size": 20},
        )
    assert running_threads == []
    assert not Path(Layout(str(tmp_path / "out")).lease).exists()

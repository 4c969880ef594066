"""An OUT written by version 0.1.0 is read, verified, queried and completed by today's code.

`tests/data/out-0.1.0` was written by the code before its packages were renamed: 40 images in bundles of 8, of which
bundles 0 to 2 are committed. Bundle 3 has tags and errors but no images, as a killed worker leaves them; bundle 4 is
missing.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from batchtag.analysis.query import query
from batchtag.analysis.verify import verify
from batchtag.config.job import make_spec
from batchtag.config.loader import read_job_file
from tests.integration.conftest import Tag
from tests.support.s3server import S3Server
from tests.support.started import RunCommand

OLD_OUT = Path(__file__).parents[1] / "data" / "out-0.1.0"
BUCKET = "shelf-photos"
OLD_JOB = """
version: 1
source:
  kind: prefix
  uris: [s3://shelf-photos/2026/]
models:
  - {kind: constant, name: bottles, task: detect, tag: bottle, score: 0.75}
  - {kind: constant, name: brands, task: classify, tag: fizz, score: 0.6, on: {crops_of: bottles}}
  - {kind: constant, name: scene, task: classify, tag: shop}
output:
  uri: /data/shelf-tags
compute:
  decode: with_models
  bundle_size: 8
max_failure_rate: 0.5
"""
"""The job file of that run."""
RUN_ID = "r-20261201-005204-ba1d"
COUNTS_BY_STATUS = "select status, count(*) as n from images group by status order by status"
COUNTS_BY_TAG = "select tag, kind, count(*) as n from tags group by tag, kind order by tag"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A copy of the old OUT."""
    return Path(shutil.copytree(OLD_OUT, tmp_path / "out"))


@pytest.fixture
def old_job(tmp_path: Path) -> dict[str, Any]:
    """The keys of the old job file."""
    path = tmp_path / "job.yaml"
    path.write_text(OLD_JOB)
    return read_job_file(path)


@pytest.fixture
def photos(s3: S3Server) -> S3Server:
    """The server with the bucket and the 40 images that the old run listed, three of them broken."""
    urlopen(Request(f"{s3.endpoint_url}/{BUCKET}", method="PUT")).close()
    s3.put({_uri_of(number): _image_bytes(number) for number in range(40)})
    return s3


def _uri_of(number: int) -> str:
    return f"s3://{BUCKET}/2026/{number // 20}/photo {number:02}.{'png' if number % 3 else 'jpg'}"


def _image_bytes(number: int) -> bytes:
    if number == 23:
        return b"%PDF-1.4 no image"
    if number == 31:
        return b""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if number % 3 else "JPEG", quality=85)
    return file.getvalue()[:60] if number == 7 else file.getvalue()


def test_the_committed_part_of_an_old_output_can_be_queried(out: Path) -> None:
    assert query(str(out), COUNTS_BY_STATUS).to_pylist() == [
        {"status": "failed", "n": 2},
        {"status": "tagged", "n": 22},
    ]
    assert query(str(out), COUNTS_BY_TAG).to_pylist() == [
        {"tag": "bottle", "kind": "object", "n": 22},
        {"tag": "fizz", "kind": "class", "n": 22},
        {"tag": "shop", "kind": "class", "n": 22},
    ]
    errors = query(str(out), "select uri, stage, code from errors order by uri").to_pylist()
    assert errors == [
        {"uri": _uri_of(7), "stage": "decode", "code": "truncated"},
        {"uri": _uri_of(23), "stage": "decode", "code": "unsupported"},
    ]


def test_verify_names_what_remains_to_do_in_an_old_output_and_its_debris(out: Path) -> None:
    report = verify(str(out))
    assert (report.num_listed, report.num_tagged, report.num_failed, report.num_to_do) == (40, 22, 2, 16)
    violations = {check.name: check.num_violations for check in report.checks if not check.ok}
    assert violations.pop("to_do") == 16
    assert violations.pop("orphan") == 2, "tags and errors of bundle 3"
    assert violations.pop("sum") == 1, "24 outcomes of 40 images"
    assert violations == {}


def test_the_record_of_an_old_run_is_shown_by_status(out: Path, run_command: RunCommand) -> None:
    assert run_command("status", str(out)).out == f"{RUN_ID}: done, 40 of 40 images\n"


def test_the_same_job_completes_an_old_output(out: Path, old_job: dict[str, Any], photos: S3Server, tag: Tag) -> None:
    source = old_job.pop("source") | {"storage_options": dict(photos.storage_options)}
    report = tag(source, str(out), **{**old_job, "output": {"uri": str(out)}})
    assert report.this_run["images"] == 16, "bundles 3 and 4 alone"
    assert (report.num_images, report.num_tagged, report.num_failed) == (40, 37, 3)
    assert report.failed_by_code == {"truncated": 1, "unsupported": 1, "empty": 1}
    verified = verify(str(out))
    assert verified.ok, verified.summary()
    assert query(str(out), COUNTS_BY_STATUS).to_pylist() == [
        {"status": "failed", "n": 3},
        {"status": "tagged", "n": 37},
    ]
    by_run = query(str(out), "select run_id, count(*) as n from images group by run_id order by n").to_pylist()
    assert by_run == [{"run_id": report.run_id, "n": 16}, {"run_id": RUN_ID, "n": 24}]


def test_the_old_name_of_separate_decoding_is_accepted_in_a_job_file(old_job: dict[str, Any]) -> None:
    old_job["compute"]["decode"] = "own_pool"
    assert make_spec(old_job, origin="job.yaml").compute.decode == "separate"

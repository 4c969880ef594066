"""Every command of the documentation works as it is written, in the order of its page.

The commands are executed in a folder that has what they name, only smaller: six drawn photographs, a bucket on a real
S3 server, the job files of this repository. Three things differ from what a reader types, because a test downloads
nothing and must end soon: models with published weights are replaced by `constant` or have none, fewer shelves are
drawn, and trainings take one epoch of a small network. A block that cannot be executed has the reason before its
fence (`tests/docs/pages.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, Block, blocks_of, without_shell
from tests.support.images import gradient, jpeg
from tests.support.s3server import S3Server
from tests.support.started import CommandResult, RunCommand, StartCommand

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow
FEW = "6"
"""Shelves that are drawn for each command that draws shelves."""


def name_of(page: Path) -> str:
    return page.name


def steps(page: Path) -> list[Block | list[str]]:
    """The files to write and the commands to execute, in the order of the page."""
    found: list[Block | list[str]] = []
    for block in blocks_of(page):
        if block.file:
            found.append(block)
        elif block.is_shell and not block.not_run:
            found += block.commands()
    return found


@pytest.fixture
def folder(tmp_path: Path, s3: S3Server, ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the commands; they join the suite's Ray cluster."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        (photos / f"{i}.jpg").write_bytes(jpeg(gradient(160 + i, 120)))
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    urlopen(Request(f"{s3.endpoint_url}/bucket", method="PUT")).close()
    s3.put({f"s3://bucket/2026/{path.name}": path.read_bytes() for path in photos.iterdir()})
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    for job in (tmp_path / "jobs").rglob("*.yaml"):
        job.write_text(smaller_job(job.read_text()))
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smaller_job(text: str) -> str:
    """The same job with `constant` for models with published weights, and one epoch of a small network."""
    content: dict[str, Any] = yaml.safe_load(text)
    for model in content.get("models", []):
        if model["kind"] == "torchvision":
            builder = model.pop("builder")
            model.pop("weights", None)
            model |= {"kind": "constant", "task": "detect" if "rcnn" in builder else "classify"}
    if "train" in content:
        content["train"] |= {"epochs": 1}
        content["network"] |= {"architecture": "fasterrcnn_small_fpn", "start": "none"}
        content["input"] = {"min_size": 96, "max_size": 128}
        content["data"].setdefault("on_problem", {"empty_class": "drop"})
    return yaml.safe_dump(content)


def smaller(words: list[str]) -> list[str]:
    """The same command without published weights, and with few images to draw."""
    words = list(words)
    if words[0] in ("scenes", "demo"):
        if "--images" in words:
            words[words.index("--images") + 1] = FEW
        else:
            words += ["--images", FEW]
    if words[0] == "run" and not words[1].endswith(".yaml"):
        if "--detector" not in words and "--classifier" not in words:
            words += ["--detector", "constant"]
        for i, option in enumerate(words[:-1]):
            if option == "--detector" and "/" not in words[i + 1]:
                words[i + 1] = "constant"
        if "--classifier" in words:
            words += ["--weights", "none"]
    return words


@pytest.mark.parametrize("page", [page for page in PAGES if steps(page)], ids=name_of)
def test_every_command_of_the_page_works(
    page: Path,
    folder: Path,
    run_command: RunCommand,
    start_command: StartCommand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def execute(words: list[str]) -> CommandResult:
        """In this process; with a Ray of its own if its workers need the credentials of the environment."""
        if not any(word.startswith("s3://") for word in words):
            return run_command(*words)
        process = start_command(*words)
        out, err = process.communicate(timeout=300)
        return CommandResult(process.returncode, out, err)

    words_of_page = [word for step in steps(page) if not isinstance(step, Block) for word in step]
    if "./tags" in words_of_page and "./photos" not in words_of_page:  # the page begins where the guide ended
        assert run_command("run", "./photos", "--out", "./tags", "--detector", "constant").code == 0
    for step in steps(page):
        if isinstance(step, Block):
            (folder / step.file).write_text(smaller_job(step.text))
            continue
        with monkeypatch.context() as environment:
            if "submit" in step or "s3://bucket/2026/" in step:
                environment.delenv("RAY_ADDRESS")
            result = execute(smaller(without_shell(step)[1:]))
        assert result.code == 0, f"{' '.join(step)}: {result.err}"
        if ">" in step:
            (folder / step[step.index(">") + 1]).write_text(result.out)

"""The table of what torchvision publishes: it is torchvision's own, and spares who only asks the import of torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from batchtag.config.model import TorchvisionSpec
from batchtag.demo import run
from batchtag.errors import UsageError
from batchtag.models import describe, prepare
from batchtag.models.downloads import cache_folder
from batchtag.models.torchvision import build_zoo, zoo, zoo_table

DEMO = Path(run.__file__).with_name("models")


def test_the_table_is_what_the_installed_torchvision_says() -> None:
    assert json.loads(zoo_table.TABLE.read_text()) == build_zoo.table(), "python -m batchtag.models.survey"


def test_a_driver_knows_a_model_without_torch() -> None:
    script = (
        "import sys; from batchtag.models import prepare; from batchtag.models.spec import TorchvisionSpec; "
        "prepare(TorchvisionSpec(builder='fasterrcnn_resnet50_fpn_v2', weights='none')); "
        "prepare(TorchvisionSpec(builder='vit_b_16', weights='none')); "
        "from batchtag.models.spec import CheckpointSpec; "
        f"[prepare(CheckpointSpec(uri={str(DEMO)!r} + name)) for name in ('/products', '/brands')]; "
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


@pytest.mark.parametrize("builder", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssd300_vgg16", "resnet50"])
def test_of_another_torchvision_the_table_says_nothing_and_the_info_is_the_same(
    builder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TorchvisionSpec(builder=builder)
    info, names = describe(spec), zoo.builders("detect")
    monkeypatch.setattr(zoo, "_table", lambda: None)
    assert (describe(spec), zoo.builders("detect")) == (info, names)


def test_weights_lie_where_torch_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_HOME")
    for cache in (str(tmp_path), ""):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        if not cache:
            monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_a_builder_without_published_weights_is_to_be_trained() -> None:
    with pytest.raises(UsageError, match="fasterrcnn_small_fpn has no published weights; it is there to be trained"):
        prepare(TorchvisionSpec(builder="fasterrcnn_small_fpn", weights="none"))

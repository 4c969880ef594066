"""The table of torchvision's builders: its facts are torchvision's own, and reading it does not import torch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from batchtag.config.model import TorchvisionSpec
from batchtag.errors import UsageError
from batchtag.models import describe, prepare
from batchtag.models.downloads import cache_folder
from batchtag.models.torchvision import build_zoo, zoo, zoo_table

DEMO_MODELS = str(files("batchtag.demo") / "models")


def test_the_table_has_the_facts_of_the_installed_torchvision() -> None:
    table = json.loads(zoo_table.TABLE.read_text())
    assert table == build_zoo.make_table(), "run `python -m batchtag.models.torchvision.build_zoo`"


def test_a_driver_describes_models_without_torch() -> None:
    script = (
        "import sys; from batchtag.models import prepare; "
        "from batchtag.config.model import CheckpointSpec, TorchvisionSpec; "
        "prepare(TorchvisionSpec(builder='fasterrcnn_resnet50_fpn_v2', weights='none')); "
        "prepare(TorchvisionSpec(builder='vit_b_16', weights='none')); "
        f"[prepare(CheckpointSpec(uri={DEMO_MODELS!r} + name)) for name in ('/products', '/brands')]; "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("builder", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssd300_vgg16", "resnet50"])
def test_with_another_version_of_torchvision_the_model_info_comes_from_torchvision_itself(
    builder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TorchvisionSpec(builder=builder)
    info, names = describe(spec), zoo.list_builders("detect")
    monkeypatch.setattr(zoo, "_read_table", lambda: None)
    assert (describe(spec), zoo.list_builders("detect")) == (info, names)


def test_weights_are_stored_where_torch_stores_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_HOME")
    for cache in (str(tmp_path), ""):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        if not cache:
            monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_a_builder_without_published_weights_must_be_trained() -> None:
    with pytest.raises(
        UsageError, match="fasterrcnn_small_fpn has no published weights; train it with `batchtag train`"
    ):
        prepare(TorchvisionSpec(builder="fasterrcnn_small_fpn", weights="none"))

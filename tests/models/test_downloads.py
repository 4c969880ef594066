"""Published weights are downloaded once and checked, and nothing in them is executed. The web server is a real one."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import Weights, WeightsEnum, _api
from torchvision.transforms._presets import ImageClassification

from batchtag.config.model import TorchvisionSpec
from batchtag.errors import ModelError
from batchtag.models import load, prepare
from batchtag.models.downloads import cache_folder, fetch_weights, load_weights, sha256_prefix
from tests.models.conftest import WeightServer

LABELS = ["cat", "dog", "N/A", "bird"]


def build_tiny(weights: WeightsEnum | None) -> nn.Module:
    """Build a small network and load its weights as every builder of torchvision does."""
    model: nn.Module = torchvision_models.squeezenet1_1(weights=None, num_classes=len(LABELS))
    if weights is not None:
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    return model


def make_weights() -> bytes:
    torch.manual_seed(3)
    file = io.BytesIO()
    torch.save(build_tiny(None).state_dict(), file)
    return file.getvalue()


def publish(server: WeightServer, data: bytes, *, sha256: str = "") -> str:
    """Publish the bytes under a name that has their hash (or another one) and return the URL."""
    path = f"/models/tiny-{(sha256 or hashlib.sha256(data).hexdigest())[:8]}.pth"
    server.files[path] = data
    return server.url + path


def fetch(url: str) -> Path:
    return fetch_weights(url, sha256_prefix(url))


@pytest.fixture
def register_tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that adds a builder `tiny` to torchvision; the one member of its weights enum has the given URL."""
    monkeypatch.setattr("batchtag.models.torchvision.zoo._read_table", lambda: None)

    def register(url: str) -> None:
        class TinyWeights(WeightsEnum):  # type: ignore[misc] # torchvision has no types
            V1 = Weights(
                url=url,
                transforms=partial(ImageClassification, crop_size=64, resize_size=72),
                meta={"categories": LABELS, "_ops": 0.1, "num_params": 1, "_file_size": 1.0},
            )
            DEFAULT = V1

        def tiny(*, weights: Any = None, progress: bool = True) -> nn.Module:
            return build_tiny(TinyWeights.verify(weights))

        tiny.__annotations__["weights"] = TinyWeights | None
        tiny.__module__ = torchvision_models.squeezenet.__name__
        _api.BUILTIN_MODELS["tiny"] = tiny

    yield register
    _api.BUILTIN_MODELS.pop("tiny", None)


def test_published_weights_are_downloaded_once_and_give_the_published_predictions(
    weight_server: WeightServer, register_tiny: Callable[[str], None]
) -> None:
    register_tiny(publish(weight_server, make_weights()))
    spec = TorchvisionSpec(builder="tiny", score_floor=0.0)
    info = prepare(spec)
    assert info.labels == ("cat", "dog", "", "bird")
    model = load(spec)
    torch.manual_seed(3)
    reference = build_tiny(None).eval()
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with torch.inference_mode():
        transforms = ImageClassification(crop_size=64, resize_size=72)
        expected = reference(transforms(torch.from_numpy(image).permute(2, 0, 1))[None]).softmax(1)[0]
    prediction = model.predict([image])[0]
    assert 2 not in prediction.label_ids, "N/A is not a tag"
    np.testing.assert_allclose(prediction.scores, expected[prediction.label_ids.tolist()].numpy(), atol=0.005)
    assert sum(weight_server.requests.values()) == 1


def test_other_weights_give_another_digest(weight_server: WeightServer, register_tiny: Callable[[str], None]) -> None:
    register_tiny(publish(weight_server, make_weights()))
    trained = prepare(TorchvisionSpec(builder="tiny"))
    assert trained.digest != prepare(TorchvisionSpec(builder="tiny", weights="none")).digest
    assert trained.digest == prepare(TorchvisionSpec(builder="tiny", weights="v1")).digest


def test_loading_leaves_the_weights_enum_of_torchvision_unchanged(
    weight_server: WeightServer, register_tiny: Callable[[str], None]
) -> None:
    register_tiny(publish(weight_server, make_weights()))
    load(TorchvisionSpec(builder="tiny"))
    assert "get_state_dict" not in vars(torchvision_models.get_model_weights("tiny").DEFAULT)


def test_eight_workers_download_a_file_once(weight_server: WeightServer) -> None:
    url = publish(weight_server, b"x" * 5_000_000)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(fetch, [url] * 8))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == b"x" * 5_000_000
    assert sum(weight_server.requests.values()) == 1


def test_the_file_is_where_torchvision_looks_for_it_and_no_partial_file_remains(weight_server: WeightServer) -> None:
    path = fetch(publish(weight_server, b"weights"))
    assert path.parent == cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    assert [file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")] == [path.name]


def test_a_damaged_file_in_the_cache_is_downloaded_again(weight_server: WeightServer) -> None:
    url = publish(weight_server, b"weights")
    fetch(url).write_bytes(b"wei")
    assert fetch(url).read_bytes() == b"weights"
    assert sum(weight_server.requests.values()) == 2


def test_a_body_that_ends_early_is_downloaded_again(weight_server: WeightServer) -> None:
    url = publish(weight_server, b"w" * 100_000)
    weight_server.truncated.add(url.removeprefix(weight_server.url))
    assert fetch(url).stat().st_size == 100_000
    assert sum(weight_server.requests.values()) == 2


@pytest.mark.parametrize(("status", "num_requests"), [(503, 2), (429, 2), (403, 1)])
def test_a_busy_server_is_asked_again_and_a_refusal_is_final(
    status: int, num_requests: int, weight_server: WeightServer
) -> None:
    url = publish(weight_server, b"weights")
    weight_server.statuses[url.removeprefix(weight_server.url)] = status
    if num_requests == 1:
        with pytest.raises(ModelError, match=f"HTTP {status}"):
            fetch(url)
    else:
        assert fetch(url).read_bytes() == b"weights"
    assert sum(weight_server.requests.values()) == num_requests


def test_a_file_with_another_hash_is_refused_and_not_kept(weight_server: WeightServer) -> None:
    url = publish(weight_server, b"<html>please log in</html>", sha256="0123456789abcdef")
    with pytest.raises(ModelError, match=r"has sha256 [0-9a-f]{16}\.\.\., its name says 01234567; .*proxy"):
        fetch(url)
    assert [file.name for file in cache_folder().iterdir() if file.suffix != ".lock"] == []


def test_missing_weights_are_an_error_with_both_remedies(weight_server: WeightServer) -> None:
    with pytest.raises(ModelError, match=r"HTTP 404 .*Set BATCHTAG_WEIGHTS .*tiny-0123abcd.pth, .*`weights: none`"):
        fetch(f"{weight_server.url}/tiny-0123abcd.pth")


def test_a_refused_connection_is_an_error_that_names_the_url_and_the_cause() -> None:
    with pytest.raises(
        ModelError, match=r"^http://127.0.0.1:1/tiny-0123abcd.pth: the weights cannot be fetched: .*refused"
    ):
        fetch_weights("http://127.0.0.1:1/tiny-0123abcd.pth", "0123abcd")


def test_a_mirror_folder_is_read_instead_of_the_publisher(
    weight_server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = publish(weight_server, b"weights")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / os.path.basename(url)).write_bytes(b"weights")
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "mirror"))
    assert fetch(url).read_bytes() == b"weights"
    assert not weight_server.requests


def test_a_mirror_on_the_web_is_read_by_the_name_of_the_file(
    weight_server: WeightServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(weight_server, b"weights")
    monkeypatch.setenv("BATCHTAG_WEIGHTS", f"{weight_server.url}/models")
    sha256 = hashlib.sha256(b"weights").hexdigest()[:8]
    assert fetch_weights(f"https://weights.invalid/tiny-{sha256}.pth", sha256).read_bytes() == b"weights"


def test_a_mirror_without_the_file_is_an_error_that_names_mirror_and_publisher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "mirror"))
    with pytest.raises(ModelError, match=r"mirror/tiny-0123abcd.pth \(the mirror .* for https://weights.invalid/"):
        fetch_weights("https://weights.invalid/tiny-0123abcd.pth", "0123abcd")


def test_a_cache_that_cannot_be_written_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"the weights cannot be stored there: .*TORCH_HOME"):
        fetch_weights("https://weights.invalid/tiny-0123abcd.pth", "0123abcd")


def test_a_url_without_a_hash_in_its_name_is_refused() -> None:
    with pytest.raises(ModelError, match="its name has no sha256"):
        sha256_prefix("https://weights.invalid/tiny.pth")


class _Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.folder,))


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    torch.save({"weight": _Trap(str(tmp_path / "sprung"))}, tmp_path / "trap.pth")
    with pytest.raises(ModelError, match=r"trap.pth: is not a file of weights"):
        load_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_weights_in_the_old_format_of_torch_are_read(tmp_path: Path) -> None:
    """Older files of torchvision were written before torch used zip archives."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / "old.pth")["weight"], torch.ones(2))

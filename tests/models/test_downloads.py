"""Published weights on their way to a network: downloaded once, checked, never executed. The server is a real one."""

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
from torchvision import models as published
from torchvision.models import Weights, WeightsEnum, _api
from torchvision.transforms._presets import ImageClassification

from batchtag.config.model import TorchvisionSpec
from batchtag.errors import ModelError
from batchtag.models import load, prepare
from batchtag.models.downloads import cache_folder, fetch_weights, load_weights, sha256_prefix
from tests.models.conftest import Shop

LABELS = ["cat", "dog", "N/A", "bird"]


def network(weights: WeightsEnum | None) -> nn.Module:
    """As every builder of torchvision ends."""
    model: nn.Module = published.squeezenet1_1(weights=None, num_classes=len(LABELS))
    if weights is not None:
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    return model


def published_file() -> bytes:
    torch.manual_seed(3)
    file = io.BytesIO()
    torch.save(network(None).state_dict(), file)
    return file.getvalue()


def put(shop: Shop, data: bytes, *, sha256: str = "") -> str:
    """Publishes the bytes under a name that carries their hash (or another) and gives the URL."""
    name = f"/models/tiny-{(sha256 or hashlib.sha256(data).hexdigest())[:8]}.pth"
    shop.files[name] = data
    return shop.url + name


def fetch(url: str) -> Path:
    return fetch_weights(url, sha256_prefix(url))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Adds a builder `tiny` to torchvision, whose one member of its weight enum points to a URL."""
    monkeypatch.setattr("batchtag.models.torchvision.zoo._table", lambda: None)

    def add(url: str) -> None:
        class TinyWeights(WeightsEnum):  # type: ignore[misc] # torchvision has no types
            V1 = Weights(
                url=url,
                transforms=partial(ImageClassification, crop_size=64, resize_size=72),
                meta={"categories": LABELS, "_ops": 0.1, "num_params": 1, "_file_size": 1.0},
            )
            DEFAULT = V1

        def tiny(*, weights: Any = None, progress: bool = True) -> nn.Module:
            return network(TinyWeights.verify(weights))

        tiny.__annotations__["weights"] = TinyWeights | None
        tiny.__module__ = published.squeezenet.__name__
        _api.BUILTIN_MODELS["tiny"] = tiny

    yield add
    _api.BUILTIN_MODELS.pop("tiny", None)


def test_published_weights_are_fetched_checked_and_become_the_network(
    shop: Shop, register: Callable[[str], None]
) -> None:
    register(put(shop, published_file()))
    spec = TorchvisionSpec(builder="tiny", score_floor=0.0)
    info = prepare(spec)
    assert info.labels == ("cat", "dog", "", "bird")
    model = load(spec)
    torch.manual_seed(3)
    reference = network(None).eval()
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    with torch.inference_mode():
        transforms = ImageClassification(crop_size=64, resize_size=72)
        expected = reference(transforms(torch.from_numpy(image).permute(2, 0, 1))[None]).softmax(1)[0]
    ours = model.predict([image])[0]
    assert 2 not in ours.label_ids
    np.testing.assert_allclose(ours.scores, expected[ours.label_ids.tolist()].numpy(), atol=0.005)
    assert sum(shop.requests.values()) == 1


def test_other_weights_give_another_digest(shop: Shop, register: Callable[[str], None]) -> None:
    register(put(shop, published_file()))
    trained = prepare(TorchvisionSpec(builder="tiny"))
    assert trained.digest != prepare(TorchvisionSpec(builder="tiny", weights="none")).digest
    assert trained.digest == prepare(TorchvisionSpec(builder="tiny", weights="v1")).digest


def test_the_enum_is_as_it_was_after_a_model_was_loaded(shop: Shop, register: Callable[[str], None]) -> None:
    register(put(shop, published_file()))
    load(TorchvisionSpec(builder="tiny"))
    assert "get_state_dict" not in vars(published.get_model_weights("tiny").DEFAULT)


def test_eight_workers_download_once(shop: Shop) -> None:
    url = put(shop, b"x" * 5_000_000)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(fetch, [url] * 8))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == b"x" * 5_000_000
    assert sum(shop.requests.values()) == 1


def test_the_file_lies_where_torchvision_looks_for_it_and_nothing_else_is_left(shop: Shop) -> None:
    path = fetch(put(shop, b"weights"))
    assert path.parent == cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    assert [file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")] == [path.name]


def test_a_damaged_file_in_the_cache_is_fetched_again(shop: Shop) -> None:
    url = put(shop, b"weights")
    fetch(url).write_bytes(b"wei")
    assert fetch(url).read_bytes() == b"weights"
    assert sum(shop.requests.values()) == 2


def test_a_body_that_ends_early_is_fetched_again(shop: Shop) -> None:
    url = put(shop, b"w" * 100_000)
    shop.broken.add(url.removeprefix(shop.url))
    assert fetch(url).stat().st_size == 100_000
    assert sum(shop.requests.values()) == 2


def test_a_file_with_another_hash_is_refused_and_not_kept(shop: Shop) -> None:
    url = put(shop, b"<html>please log in</html>", sha256="0123456789abcdef")
    with pytest.raises(ModelError, match=r"has sha256 [0-9a-f]{16}\.\.\., its name says 01234567; .*proxy"):
        fetch(url)
    assert [file.name for file in cache_folder().iterdir() if file.suffix != ".lock"] == []


def test_weights_that_are_not_there_are_an_error_with_both_ways_out(shop: Shop) -> None:
    with pytest.raises(ModelError, match=r"HTTP 404 .*Set BATCHTAG_WEIGHTS .*tiny-0123abcd.pth, .*`weights: none`"):
        fetch(f"{shop.url}/tiny-0123abcd.pth")


def test_a_host_that_does_not_answer_is_an_error_that_names_the_url() -> None:
    with pytest.raises(ModelError, match=r"^http://127.0.0.1:1/tiny-0123abcd.pth: the weights cannot be fetched"):
        fetch_weights("http://127.0.0.1:1/tiny-0123abcd.pth", "0123abcd")


def test_a_mirror_is_asked_instead_of_the_publisher(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(shop, b"weights")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / os.path.basename(url)).write_bytes(b"weights")
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "mirror"))
    assert fetch(url).read_bytes() == b"weights"
    assert not shop.requests


def test_a_mirror_on_the_web_is_asked_by_the_name_of_the_file(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    put(shop, b"weights")
    monkeypatch.setenv("BATCHTAG_WEIGHTS", f"{shop.url}/models")
    sha256 = hashlib.sha256(b"weights").hexdigest()[:8]
    assert fetch_weights(f"https://weights.invalid/tiny-{sha256}.pth", sha256).read_bytes() == b"weights"


def test_a_mirror_without_the_file_is_an_error_that_names_mirror_and_publisher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHTAG_WEIGHTS", str(tmp_path / "mirror"))
    with pytest.raises(ModelError, match=r"mirror/tiny-0123abcd.pth \(the mirror .* for https://weights.invalid/"):
        fetch_weights("https://weights.invalid/tiny-0123abcd.pth", "0123abcd")


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"weights cannot be kept there: .*TORCH_HOME"):
        fetch_weights("https://weights.invalid/tiny-0123abcd.pth", "0123abcd")


def test_a_url_without_a_hash_in_its_name_is_refused() -> None:
    with pytest.raises(ModelError, match="its name carries no sha256"):
        sha256_prefix("https://weights.invalid/tiny.pth")


class _Trap:
    """Unpickling it would make a folder."""

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
    """The older files of torchvision are from before torch wrote zip archives."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / "old.pth")["weight"], torch.ones(2))

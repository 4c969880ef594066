"""Fixtures for the tests of models: photographs as arrays, a detector that reacts to them, and a server of weights."""

from __future__ import annotations

import functools
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms.functional import pil_to_tensor

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> list[Image.Image]:
    """Eight photographs in RGB. Their shapes differ, but some have the same shape."""
    files = sorted((shared_data / "photos").rglob("*.jpg"))[:8]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture(scope="session")
def responsive_detector(photos: list[Image.Image]) -> Callable[..., nn.Module]:
    """A function that builds a detector with seeded weights whose answers depend on the image.

    With fresh batch norms the signal fades: every box of an untrained network gets the score of the biases. Here the
    batch norms first measure two photographs (small, to save time), and the last layer is made ten times as steep.
    """

    @functools.cache
    def build(builder: str, **arguments: Any) -> nn.Module:
        torch.manual_seed(0)
        network: Any = models.get_model(builder, weights=None, weights_backbone=None, **arguments).eval()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
            norm.train()
        sizes = network.transform.min_size, network.transform.max_size
        network.transform.min_size, network.transform.max_size = (240,), 400
        with torch.no_grad():
            network.roi_heads.box_predictor.cls_score.weight.mul_(10)
            network([pil_to_tensor(photo) / 255 for photo in photos[:2]])
        network.transform.min_size, network.transform.max_size = sizes
        evaluated: nn.Module = network.eval()
        return evaluated

    return build


@pytest.fixture(scope="session")
def odd_images() -> list[Pixels]:
    """Arrays of every kind that a decoder may give: two of one shape, tiny, elongated, read-only, a strided view."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int) -> Pixels:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    read_only = noise(90, 120)
    read_only.flags.writeable = False
    return [
        noise(90, 120),
        noise(120, 90),
        noise(90, 120),
        noise(1, 1),
        noise(20, 200),
        read_only,
        noise(80, 160)[:, ::2],
    ]


@dataclass
class WeightServer:
    """A web server on the loopback.

    `files` has the content by path, and `requests` counts the GETs by path. A path in `truncated` is answered once with
    half of its body. A path in `statuses` is answered once with that HTTP status.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def weight_server() -> Iterator[WeightServer]:
    """A server that answers until the end of the test."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests[self.path] += 1
            data = state.files.get(self.path)
            status = 404 if data is None else state.statuses.pop(self.path, 200)
            if data is None or status != 200:
                self.send_error(status)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.path in state.truncated else data)
            state.truncated.discard(self.path)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: stderr belongs to pytest."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = WeightServer(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache of weights, so that it neither reads nor fills the one of this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("BATCHTAG_WEIGHTS", raising=False)


@pytest.fixture
def shuffled() -> Callable[[Sequence[Any], int], list[int]]:
    """A function that returns an order in which to pass items, another one for every seed."""
    return lambda items, seed: [int(i) for i in np.random.default_rng(seed).permutation(len(items))]

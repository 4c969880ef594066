"""Photographs as arrays, networks that look at them, and a web server to fetch weights from."""

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
    """Eight real photographs of several shapes, some of them of the same one."""
    files = sorted((shared_data / "photos").rglob("*.jpg"))[:8]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture(scope="session")
def awake_detector(photos: list[Image.Image]) -> Callable[..., nn.Module]:
    """Builds a seeded detector whose answers depend on what it sees.

    Fresh batch norms let the signal die out: untrained, every box gets the score of the biases. Here they first see two
    photographs (small, to save time), and the last layer is made ten times as steep.
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
        eyes_open: nn.Module = network.eval()
        return eyes_open

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
class Shop:
    """A web server on the loopback. `files` and `requests` (GETs, counted) by path; `broken` ones end early once."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Serves until the end of the test."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.requests[self.path] += 1
            data = here.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.path in here.broken else data)
            here.broken.discard(self.path)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: stderr belongs to pytest."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Shop(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of models reads or fills the cache of this machine, or its mirror."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("BATCHTAG_WEIGHTS", raising=False)


@pytest.fixture
def shuffled() -> Callable[[Sequence[Any], int], list[int]]:
    """An order in which to hand over images, another for every seed."""
    return lambda items, seed: [int(i) for i in np.random.default_rng(seed).permutation(len(items))]

"""What a peer is told, and the two moments it reports."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.speed.works import Settings

_READY, _DONE = "ready-{}", "done"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one peer. `keys` lie in `bucket` of the server; `models` are checkpoint folders; `out` is a folder."""

    endpoint_url: str
    bucket: str
    keys: tuple[str, ...]
    models: tuple[str, ...]
    out: str
    settings: Settings

    @property
    def uris(self) -> list[str]:
        return [f"s3://{self.bucket}/{key}" for key in self.keys]

    @property
    def address(self) -> str:
        """Host and port of the server."""
        return urlsplit(self.endpoint_url).netloc

    def write(self, path: Path) -> None:
        """For `read`."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Task:
        """The task that `write` wrote."""
        content = json.loads(Path(path).read_text())
        content |= {"keys": tuple(content["keys"]), "models": tuple(content["models"])}
        return cls(**content | {"settings": Settings(**content["settings"])})

    def say_ready(self) -> None:
        """Called by each process when its models are in memory; the earliest counts."""
        self._stamp(_READY.format(os.getpid()))

    def say_done(self) -> None:
        """Called once, when the last row is written."""
        self._stamp(_DONE)

    def tagging_s(self) -> float:
        """From ready to done. Raises FileNotFoundError or ValueError for a peer that did not say so."""
        ready = [float(path.read_text()) for path in self._moments.glob(_READY.format("*"))]
        return float((self._moments / _DONE).read_text()) - min(ready)

    @property
    def _moments(self) -> Path:
        return Path(self.out).with_name("moments")

    def _stamp(self, name: str) -> None:
        self._moments.mkdir(exist_ok=True)
        (self._moments / name).write_text(repr(time.time()))


def given() -> Task:
    """The task on the command line."""
    return Task.read(sys.argv[1])

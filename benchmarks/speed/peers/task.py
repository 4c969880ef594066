"""The task of a peer, and the two moments that it reports."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.speed.workloads import Settings

_READY, _DONE = "ready-{}", "done"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one peer. `keys` are in `bucket` of the server; `models` are checkpoint folders; `out` is a folder."""

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
        """Host and port of the server, for clients that take no scheme."""
        return urlsplit(self.endpoint_url).netloc

    def write(self, path: Path) -> None:
        """Write the task as JSON, for `read`."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Task:
        """Return the task that `write` wrote."""
        content = json.loads(Path(path).read_text())
        content |= {"keys": tuple(content["keys"]), "models": tuple(content["models"])}
        return cls(**content | {"settings": Settings(**content["settings"])})

    def report_ready(self) -> None:
        """Note the time. Each process calls this when its models are in memory; the earliest time counts."""
        self._note_time(_READY.format(os.getpid()))

    def report_done(self) -> None:
        """Note the time. Called once, when the last row is written."""
        self._note_time(_DONE)

    def tagging_s(self) -> float:
        """Return the seconds from ready to done. Raises FileNotFoundError or ValueError if the peer did not report
        both."""
        ready = [float(path.read_text()) for path in self._moments.glob(_READY.format("*"))]
        return float((self._moments / _DONE).read_text()) - min(ready)

    @property
    def _moments(self) -> Path:
        return Path(self.out).with_name("moments")

    def _note_time(self, name: str) -> None:
        self._moments.mkdir(exist_ok=True)
        (self._moments / name).write_text(repr(time.time()))


def read_task_argument() -> Task:
    """Return the task that the command line names."""
    return Task.read(sys.argv[1])

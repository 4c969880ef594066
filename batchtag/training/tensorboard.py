"""The curves of a training for TensorBoard: an event file under OUT/tensorboard, rewritten after each epoch.

A resumed training adds a file. TensorBoard joins the files by step, which is the epoch here, and drops what an earlier
file has of epochs that were trained again. tensorboardX writes the file on the driver's disk; it is then copied to OUT.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from batchtag.storage import Store, join_uri
from batchtag.storage.retry import WRITES, with_retries

FOLDER = "tensorboard"


class TensorBoardWriter:
    """Writes the curves, one epoch at a time. A context manager; runs on the driver."""

    def __init__(self, out: str, *, store: Store) -> None:
        self._folder_uri = join_uri(out, FOLDER)
        self._store = store
        self._local = tempfile.TemporaryDirectory(prefix="batchtag-tensorboard-")
        self._writer: Any = None

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._local.cleanup()

    def add_epoch(self, entry: Mapping[str, Any]) -> None:
        """Add the figures of one epoch (an entry of the history) and copy the file to OUT."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(logdir=self._local.name, purge_step=int(entry["epoch"]))
        for name, value in entry.items():
            if name != "epoch" and math.isfinite(value):
                self._writer.add_scalar(_curve_name(name), value, int(entry["epoch"]))
        self._writer.flush()
        for file in Path(self._local.name).iterdir():
            data, uri = file.read_bytes(), join_uri(self._folder_uri, file.name)
            with_retries(lambda data=data, uri=uri: self._store.write(uri, data), policy=WRITES)  # type: ignore[misc]


def _curve_name(name: str) -> str:
    if name == "loss":
        return "loss/total"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_')}"
    return name if name in ("learning_rate", "seconds") else f"val/{name}"

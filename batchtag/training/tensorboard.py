"""The curves of a training as TensorBoard reads them: an events file under OUT/tensorboard, rewritten after each epoch.

A training that went on after a kill adds a file; TensorBoard joins them by step, which is the epoch, and forgets
what an earlier file says of epochs that were done again. The file is written by tensorboardX on the driver's disk and
copied to wherever OUT is.
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
_NOT_CURVES = ("epoch",)


class Curves:
    """Takes an epoch at a time. A context manager; runs on the driver."""

    def __init__(self, out: str, *, store: Store) -> None:
        self._folder_uri = join_uri(out, FOLDER)
        self._store = store
        self._local = tempfile.TemporaryDirectory(prefix="batchtag-tensorboard-")
        self._writer: Any = None

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._local.cleanup()

    def add(self, entry: Mapping[str, float]) -> None:
        """The figures of one epoch of the history."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(logdir=self._local.name, purge_step=int(entry["epoch"]))
        for name, value in entry.items():
            if name not in _NOT_CURVES and math.isfinite(value):
                self._writer.add_scalar(_tag(name), value, int(entry["epoch"]))
        self._writer.flush()
        for file in Path(self._local.name).iterdir():
            data, uri = file.read_bytes(), join_uri(self._folder_uri, file.name)
            with_retries(lambda data=data, uri=uri: self._store.write(uri, data), policy=WRITES)  # type: ignore[misc]


def _tag(name: str) -> str:
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_') if name != 'loss' else 'total'}"
    return f"val/{name}" if name not in ("learning_rate", "seconds") else name

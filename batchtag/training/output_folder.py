"""The files that a training keeps in OUT besides its checkpoint: training.json, history.json and the folder _training.

training.json says which job OUT belongs to, and whether it is done; two jobs are never mixed in one OUT. _training has
the states of an unfinished training and the lease.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from batchtag import __version__
from batchtag.config.training import STATES, TrainSpec
from batchtag.datasets.validate import CheckedData
from batchtag.errors import OutputError, StorageError
from batchtag.output.job_identity import find_differences
from batchtag.storage import Store, join_uri, read_json, scheme_of
from batchtag.storage.retry import WRITES, with_retries
from batchtag.training.events import HistoryEntry
from batchtag.training.report import TrainReport

TRAINING, HISTORY = "training.json", "history.json"
_MAX_SHOWN_DIFFERENCES = 5


class TrainingFolder:
    """Reads and writes the files of one OUT. Runs on the driver."""

    def __init__(self, out: str, *, store: Store) -> None:
        self._out = out
        self._store = store

    def read_record(self) -> dict[str, Any] | None:
        """Return the content of training.json; None if OUT has none.

        Raises OutputError if OUT has a checkpoint that was not trained there.
        """
        record = self._read(TRAINING)
        if record is None and self._read("model.json") is not None:
            raise OutputError(
                f"{self._out} already has a checkpoint, but no {TRAINING}, so `batchtag train` did not write it; "
                "choose another output.uri"
            )
        return record

    def write_started(self, identity: Mapping[str, Any]) -> None:
        """Write training.json of a training that is not done."""
        self._write(TRAINING, {**identity, "done": False})

    def write_done(self, identity: Mapping[str, Any], report: TrainReport) -> None:
        """Write training.json of a training that is done."""
        content = asdict(report)
        del content["out"]  # the folder may be moved
        self._write(TRAINING, {**identity, "done": True, "report": content})

    def write_history(self, history: Sequence[HistoryEntry]) -> None:
        """Write history.json, one entry for each epoch."""
        self._write(HISTORY, history)

    def remove_states(self) -> None:
        """Remove _training, which only an unfinished training needs. Files that cannot be removed do no harm."""
        folder = join_uri(self._out, STATES)
        with contextlib.suppress(StorageError):
            for page in list(self._store.walk(folder)):
                for file in page:
                    self._store.delete(file.uri)
        if scheme_of(folder) == "file":
            shutil.rmtree(folder.removeprefix("file://"), ignore_errors=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        found = read_json(join_uri(self._out, name), store=self._store, build=dict)
        return None if found is None else found[0]

    def _write(self, name: str, content: Any) -> None:
        data = json.dumps(content, indent=1, ensure_ascii=False).encode()
        with_retries(lambda: self._store.write(join_uri(self._out, name), data), policy=WRITES)


def training_identity(spec: TrainSpec, data: CheckedData) -> dict[str, Any]:
    """Return everything that decides the weights, as plain data.

    The location of the data is not part of it: the same images elsewhere are the same job.
    """
    excluded: Any = {"data": True, "compute": True, "output": {"uri", "storage_options"}}
    job = spec.model_dump(mode="json", exclude=excluded)
    job["network"].pop("storage_options", None)
    return {"job": job | {"data_digest": data.digest, "labels": list(data.train.labels)}, "batchtag": __version__}


def check_same_training(record: Mapping[str, Any], identity: Mapping[str, Any], *, out: str) -> None:
    """Raise OutputError, with the differences, unless the record of OUT is of this job."""
    found = list(find_differences(record.get("job", {}), identity["job"]))
    if found:
        shown = "; ".join(found[:_MAX_SHOWN_DIFFERENCES])
        more = len(found) - _MAX_SHOWN_DIFFERENCES
        raise OutputError(
            f"{out} has the training of another job: {shown}{f' and {more} more' if more > 0 else ''}. "
            "Choose another output.uri, or delete this folder"
        )

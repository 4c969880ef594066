"""The identity of a job in its OUT, `_batchtag/job.json`: two runs are of the same job if it is equal.

It holds what `config.job.rows_depend_on` lists, with the digests of each model and of its labels. How the job was first
run is stored beside it, for readers, and decides nothing. The thresholds for readers decide no row either, and have a
file of their own: those of the last run count, so a model that was evaluated again brings its new thresholds into
existing tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from batchtag import __version__
from batchtag.config.job import JobSpec, rows_depend_on
from batchtag.errors import ConditionFailed, OutputError
from batchtag.output.layout import Layout
from batchtag.storage import ABSENT, Store, read_json
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ModelInfo

_SECRET = {"storage_options"}
_MAY_HOLD_SECRETS = {"address", "env", "pip"}
_MAX_NAMED_DIFFERENCES = 5


def job_identity(spec: JobSpec, infos: Sequence[ModelInfo]) -> dict[str, Any]:
    """Return what makes a job the same, as plain JSON data without secrets. `infos` are those of `spec.models`."""
    rows = rows_depend_on(spec)
    models = [
        {
            "id": info.id,
            "kind": info.kind,
            "num_labels": len(info.labels),
            "labels_sha256": hashlib.sha256("\0".join(info.labels).encode()).hexdigest(),
            "spec": model,
        }
        for model, info in zip(rows["models"], infos, strict=True)
    ]
    return {**rows, "models": models}


def store_or_check_job(identity: dict[str, Any], *, spec: JobSpec, store: Store, layout: Layout) -> bool:
    """Write job.json if OUT has none, and return whether it had none.

    Raises OutputError if OUT belongs to another job.
    """
    stored = read_job(store=store, layout=layout)
    if stored is not None:
        check_same_job(identity, stored, layout=layout)
        return False
    first_run = {
        "batchtag": __version__,
        "output": spec.output.model_dump(mode="json", exclude=_SECRET),
        "compute": spec.compute.model_dump(mode="json", exclude=_MAY_HOLD_SECRETS),
        "max_failure_rate": spec.max_failure_rate,
    }
    text = json.dumps({**identity, "first_run": first_run}, indent=1, ensure_ascii=False)
    try:
        with_retries(lambda: store.write_if(layout.job, text.encode(), expected=ABSENT), policy=WRITES)
    except ConditionFailed:  # most likely our own write: it succeeded, its answer was lost, and it was tried again
        check_same_job(identity, read_job(store=store, layout=layout) or {}, layout=layout)
    return True


def read_job(*, store: Store, layout: Layout) -> dict[str, Any] | None:
    """Return the identity of the job of OUT, as stored; None if OUT has none."""
    stored = read_json(layout.job, store=store, build=_parse_job)
    return None if stored is None else stored[0]


def _parse_job(content: dict[str, Any]) -> dict[str, Any]:
    """Return the identity without `first_run`, where files that are older than the key `precision` have it."""
    compute = content.get("first_run", {}).get("compute", {})
    precision = content.get("precision", compute.get("precision", "float32"))
    return {key: value for key, value in content.items() if key != "first_run"} | {"precision": precision}


def check_same_job(identity: dict[str, Any], stored: dict[str, Any], *, layout: Layout) -> None:
    """Raise OutputError, with what differs, unless both are the same job."""
    differences = list(find_differences(stored, identity))
    if differences:
        num_more = len(differences) - _MAX_NAMED_DIFFERENCES
        raise OutputError(
            f"{layout.out} holds the tables of another job: {'; '.join(differences[:_MAX_NAMED_DIFFERENCES])}"
            f"{f' and {num_more} more' if num_more > 0 else ''}. "
            "Rows of two jobs are never mixed: choose another --out"
        )


def find_differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two pieces of plain data: a line each, with the path to it."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from find_differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (value_before, value_now) in enumerate(zip(before, now, strict=True)):
            yield from find_differences(value_before, value_now, f"{path}[{i}]")
    elif before != now:
        yield f"{path} was {_shorten(before)} and is {_shorten(now)} now"


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def store_thresholds(infos: Sequence[ModelInfo], *, store: Store, layout: Layout) -> None:
    """Write the models' thresholds for readers, unless OUT has the same. The lease must be held."""
    thresholds = {info.id: dict(info.thresholds) for info in infos if info.thresholds}
    if thresholds != read_thresholds(store=store, layout=layout):
        data = json.dumps(thresholds, indent=1, ensure_ascii=False).encode()
        with_retries(lambda: store.write(layout.thresholds, data), policy=WRITES)


def read_thresholds(*, store: Store, layout: Layout) -> dict[str, dict[str, float]]:
    """Return the thresholds by model (`name@digest`) and tag, as the last run wrote them.

    A model without thresholds is absent. Raises StorageError (`corrupt`) for a file that batchtag cannot have written.
    """
    stored = read_json(
        layout.thresholds,
        store=store,
        build=lambda content: {
            model: {tag: float(score) for tag, score in by_tag.items()} for model, by_tag in content.items()
        },
    )
    return {} if stored is None else stored[0]

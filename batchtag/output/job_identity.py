"""What makes two runs the same job: all that decides the rows, as `_batchtag/job.json`, and what differs if it does.

The models by digest, their labels by digest, the decode rules, the source, and the precision. Not how it is run (the
rest of `compute`), nor how many failures are allowed, nor any secret: storage options are left out, since other
credentials are the same job. A model's `task` only checks what the model is, and flags say it where a file need not.
Nor the thresholds for readers, which decide no row: they are in a file of their own, and the last run's count, so a
model that was evaluated again brings its new ones into tables that are there already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from batchtag import __version__
from batchtag.config.job import JobSpec
from batchtag.errors import ConditionFailed, OutputError
from batchtag.output.layout import Layout
from batchtag.storage import ABSENT, Store, read_json
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import ModelInfo

_SECRET = {"storage_options"}
_MAY_HOLD_SECRETS = {"address", "env", "pip"}


def identity(spec: JobSpec, infos: Sequence[ModelInfo]) -> dict[str, Any]:
    """The job as resolved: plain data without secrets, the same for every run of the same job."""
    models = [
        {
            "id": info.id,
            "kind": info.kind,
            "num_labels": len(info.labels),
            "labels_sha256": hashlib.sha256("\0".join(info.labels).encode()).hexdigest(),
            "spec": model.model_dump(mode="json", exclude=_SECRET | {"task"}),
        }
        for model, info in zip(spec.models, infos, strict=True)
    ]
    return {
        "version": spec.version,
        "source": spec.source.model_dump(mode="json", exclude=_SECRET),
        "decode": spec.decode.model_dump(mode="json", exclude={"timeout_s"}),
        "models": models,
        "precision": spec.compute.precision,
    }


def check_or_store(mine: dict[str, Any], *, spec: JobSpec, store: Store, layout: Layout) -> bool:
    """Write job.json if OUT is new; returns whether it is. Raises OutputError if OUT belongs to another job."""
    theirs = read_job(store=store, layout=layout)
    if theirs is not None:
        check_same(mine, theirs, layout=layout)
        return False
    how = {
        "batchtag": __version__,
        "output": spec.output.model_dump(mode="json", exclude=_SECRET),
        "compute": spec.compute.model_dump(mode="json", exclude=_MAY_HOLD_SECRETS),
        "max_failure_rate": spec.max_failure_rate,
    }
    text = json.dumps({**mine, "first_run": how}, indent=1, ensure_ascii=False)
    try:
        with_retries(lambda: store.write_if(layout.job, text.encode(), expected=ABSENT), policy=WRITES)
    except ConditionFailed:  # most likely our own write, whose answer was lost on the way
        check_same(mine, read_job(store=store, layout=layout) or {}, layout=layout)
    return True


def store_thresholds(infos: Sequence[ModelInfo], *, store: Store, layout: Layout) -> None:
    """Leave the models' thresholds for readers, unless OUT has just these. Only who holds OUT may do so."""
    mine = {info.id: dict(info.thresholds) for info in infos if info.thresholds}
    if mine != read_thresholds(store=store, layout=layout):
        data = json.dumps(mine, indent=1, ensure_ascii=False).encode()
        with_retries(lambda: store.write(layout.thresholds, data), policy=WRITES)


def read_thresholds(*, store: Store, layout: Layout) -> dict[str, dict[str, float]]:
    """Scores by model (`name@digest`) and tag, as the last run left them; a model without any is absent.

    Raises StorageError (`corrupt`) for a file that no run can have written.
    """
    found = read_json(
        layout.thresholds,
        store=store,
        build=lambda content: {
            model: {tag: float(score) for tag, score in by_tag.items()} for model, by_tag in content.items()
        },
    )
    return {} if found is None else found[0]


def check_same(mine: dict[str, Any], theirs: dict[str, Any], *, layout: Layout) -> None:
    """Raises OutputError, naming what differs, unless both are the same job."""
    found = list(differences(theirs, mine))
    if found:
        raise OutputError(
            f"{layout.out} holds the tables of another job: {'; '.join(found[:5])}"
            f"{f' and {len(found) - 5} more' if len(found) > 5 else ''}. "
            "Rows of two jobs are never mixed: choose another --out"
        )


def read_job(*, store: Store, layout: Layout) -> dict[str, Any] | None:
    """The job of OUT as stored; None if there is none."""
    found = read_json(layout.job, store=store, build=_without_how)
    return None if found is None else found[0]


def _without_how(content: dict[str, Any]) -> dict[str, Any]:
    """The job alone. One of before precision was part of it has it among how it was first run."""
    how = content.get("first_run", {}).get("compute", {})
    precision = content.get("precision", how.get("precision", "float32"))
    return {key: value for key, value in content.items() if key != "first_run"} | {"precision": precision}


def differences(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """What differs between two pieces of plain data, a line each, with the path to it."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in sorted({*theirs, *mine}):
            yield from differences(theirs.get(key), mine.get(key), f"{path}.{key}" if path else key)
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for i, (there, here) in enumerate(zip(theirs, mine, strict=True)):
            yield from differences(there, here, f"{path}[{i}]")
    elif theirs != mine:
        yield f"{path} was {_short(theirs)} and is {_short(mine)} now"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."

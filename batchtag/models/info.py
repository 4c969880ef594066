"""The model info of every kind of model: its digest, its limits, and which of its labels can become tags.

The digest covers everything that decides the predictions, and nothing else. Renaming a model, moving its weights to a
mirror, or writing out the default of `max_tags` leaves the digest alone, so that a run can resume. Knows no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchtag.config.model import CropsOf, ModelSpec, model_name
from batchtag.tasks import TASKS, Task
from batchtag.types import InputResolution, ModelInfo

_NOT_A_TAG = frozenset({"__background__", "N/A"})
"""Categories of published weights that never become a tag. "N/A" fills the gaps in COCO's numbering."""


def make_model_info(
    spec: ModelSpec,
    *,
    task: Task,
    facts: Mapping[str, Any],
    labels: Sequence[str],
    input_resolution: InputResolution,
    gflops: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
) -> ModelInfo:
    """Make the model info of the model that `spec` asks for.

    `facts` is plain data that goes into the digest: architecture, weights, preprocessing. `labels` has the label of
    each label id, "" for ids that never become a tag (`tag_labels`).
    """
    on = spec.on if isinstance(spec.on, CropsOf) else None
    return ModelInfo(
        name=model_name(spec),
        kind=TASKS[task].kind,
        digest=compute_digest(
            {
                **facts,
                "task": task,
                "labels": list(labels),
                "score_floor": spec.score_floor,
                "max_tags": resolve_max_tags(spec, task=task),
            }
        ),
        labels=tuple(labels),
        input_resolution=input_resolution,
        gflops=gflops,
        crops_of=on.crops_of if on else "",
        crops_min_score=on.min_score if on else 0.0,
        thresholds=tuple(sorted((thresholds or {}).items())),
    )


def resolve_max_tags(spec: ModelSpec, *, task: Task) -> int:
    """Return the spec's `max_tags`, or the default of the task where the spec has 0."""
    return spec.max_tags or TASKS[task].default_max_tags


def compute_digest(facts: Mapping[str, Any]) -> str:
    """Compute 12 hex digits over plain data. The order of its keys does not matter."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tag_labels(categories: Iterable[str], *, task: Task) -> tuple[str, ...]:
    """Return the label of every label id, with "" for ids that never become a tag.

    These are the gaps in COCO's numbering, and label id 0 of a detector: that is the background, whatever its name
    (Keypoint R-CNN calls it "no person").
    """
    return tuple(
        "" if category in _NOT_A_TAG or (task == "detect" and label_id == 0) else category
        for label_id, category in enumerate(categories)
    )

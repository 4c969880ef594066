"""How a model introduces itself: the card, its digest, and which of its labels may become tags.

The digest covers what decides the answers and nothing else: renaming a model, moving its weights to a mirror or giving
`max_tags` its default value in words leaves it alone, so a run resumes. It is shared by every kind of model and knows
no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from batchtag.config.model import CropsOf, ModelSpec, model_name
from batchtag.tasks import Task
from batchtag.types import InputResolution, ModelInfo

_MAX_TAGS = {"detect": 100, "classify": 5}
_KIND: dict[str, Literal["object", "class"]] = {"detect": "object", "classify": "class"}
_NO_TAG = frozenset({"__background__", "N/A"})


def make_info(
    spec: ModelSpec,
    *,
    task: Task,
    facts: Mapping[str, Any],
    labels: Sequence[str],
    input_resolution: InputResolution,
    gflops: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
) -> ModelInfo:
    """The card of the model that `spec` asks for. `facts` is plain data: architecture, weights, preprocessing."""
    on = spec.on if isinstance(spec.on, CropsOf) else None
    return ModelInfo(
        name=model_name(spec),
        kind=_KIND[task],
        digest=digest_of(
            {
                **facts,
                "task": task,
                "labels": list(labels),
                "score_floor": spec.score_floor,
                "max_tags": most_tags(spec, task=task),
            }
        ),
        labels=tuple(labels),
        input_resolution=input_resolution,
        gflops=gflops,
        crops_of=on.crops_of if on else "",
        crops_min_score=on.min_score if on else 0.0,
        thresholds=tuple(sorted((thresholds or {}).items())),
    )


def most_tags(spec: ModelSpec, *, task: Task) -> int:
    """`max_tags` with its default filled in."""
    return spec.max_tags or _MAX_TAGS[task]


def digest_of(facts: Mapping[str, Any]) -> str:
    """12 hex digits over plain data, whatever the order of its keys."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tag_labels(categories: Iterable[str], *, task: Task) -> tuple[str, ...]:
    """The label of every id, with "" for those that are no tag: gaps in COCO's numbering, and a detector's background.

    Label 0 of a detector is the background whatever it is called (Keypoint R-CNN says "no person").
    """
    return tuple(
        "" if category in _NO_TAG or (task == "detect" and i == 0) else category
        for i, category in enumerate(categories)
    )

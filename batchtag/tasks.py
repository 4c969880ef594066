"""The tasks that a model can have, and everything that follows from a task alone.

This is the only place that decides which task gives which kind of tag. To add a task (masks, keypoints, embeddings),
add its name to `Task` and its row to `TASKS`. Importable without torch and without pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Task = Literal["detect", "classify"]
"""What a model does with an image: find objects in it, or name its class."""

Kind: TypeAlias = str
"""The kind of a tag, as the column `kind` of the tables has it. Today: "object" (a box) and "class" (the whole image or
crop). The type is open, because tables of later versions may have "mask", "keypoints" or "embedding"."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """Properties of a task.

    `kind` is the kind of tag that its models give. `noun` names such a model in messages, and `flag` is the option of
    `batchtag run` that adds one. `default_max_tags` is the largest number of tags for one image or crop, unless the job
    says otherwise.
    """

    kind: Kind
    noun: str
    flag: str
    default_max_tags: int


TASKS: Mapping[Task, TaskFacts] = {
    "detect": TaskFacts(kind="object", noun="detector", flag="--detector", default_max_tags=100),
    "classify": TaskFacts(kind="class", noun="classifier", flag="--classifier", default_max_tags=5),
}

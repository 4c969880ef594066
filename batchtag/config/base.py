"""The one base of all that a job file may say: unknown keys are refused and nothing changes after reading."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen piece of a job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

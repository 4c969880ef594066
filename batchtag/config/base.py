"""The base class of everything that a job file may contain, and the old names that job files may still use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Spec(BaseModel):
    """A section of a job file: unknown keys are refused, and nothing changes after reading.

    A key or a value that was renamed is listed under its old name in `renamed_keys` or `renamed_values`. Job files that
    use the old name are read as if they used the new one; errors still name the key as the file has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """New name of each key that was renamed, by its old name."""
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """By key, the new word for each value that was renamed, by its old word."""

    @model_validator(mode="before")
    @classmethod
    def _use_new_names(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not (cls.renamed_keys or cls.renamed_values):
            return content
        for old, new in cls.renamed_keys.items():
            if old in content and new in content:
                raise ValueError(f"{old} is the old name of {new}, and both are set; remove {old}")
        renamed = {cls.renamed_keys.get(key, key): value for key, value in content.items()}
        for key, words in cls.renamed_values.items():
            if isinstance(value := renamed.get(key), str):
                renamed[key] = words.get(value, value)
        return renamed

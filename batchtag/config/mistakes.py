"""The lines that report the mistakes in a job file: each with the path of the value, as the file has it, and advice.

Pydantic reports each mistake with a location that follows its types, not the file. The location is walked along the
types here, so a new section, kind or list needs no code. A value is shown only if it is small, and never the values of
a mapping: they may hold credentials.
"""

from __future__ import annotations

import difflib
import types
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from batchtag.config.base import Spec

_Location = tuple[int | str, ...]
_MAX_VALUE_LENGTH = 80


class Mistakes(ValueError):
    """Several mistakes in one value, raised by a validator. Each line begins with the path below the value.

    `Mistakes(["[1].name is 'a', ..."])` from the validator of `models` is reported as `models[1].name is 'a', ...`.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


def mistake_lines(error: ValidationError, model: type[Spec], content: Any) -> list[str]:
    """Return one line for each mistake in `content`, which was read as `model`.

    What the members of a union report about the same value becomes one line.
    """
    lines: list[str] = []
    expectations: dict[tuple[str, str], list[str]] = {}
    problems = _drop_unlikely_members(
        [(_locate(problem["loc"], model, content), problem) for problem in error.errors(include_url=False)]
    )
    for location, problem in problems:
        path, cause = location.path, problem.get("ctx", {}).get("error")
        match problem["type"]:
            case "extra_forbidden":
                lines.append(
                    f"{path} is not a key of a job{_suggest_key(str(problem['loc'][-1]), location.known_keys)}"
                )
            case "missing":
                lines.append(f"{path} is missing")
            case "invalid_key":
                lines.append(f"the key {problem['loc'][-1]!r} is not a word; the keys of a job are words")
            case "union_tag_not_found":
                lines.append(f"{path}.kind is missing")
            case "union_tag_invalid":
                context = problem["ctx"]
                lines.append(f"{path}.kind is {context['tag']!r}; it must be one of {context['expected_tags']}")
            case "value_error" if isinstance(cause, Mistakes):
                lines += [_join_path(path, line) for line in cause.lines]
            case "value_error" if isinstance(problem["input"], dict):  # several keys together: no single value is wrong
                lines.append(f"{path}: {cause}" if path else str(cause))
            case _ if not any(other.path.startswith((f"{path}.", f"{path}[")) for other, _ in problems):
                key = (path, _format_value(problem["loc"], problem["input"]))
                expectations.setdefault(key, []).append(_format_expectation(problem))
    lines += [
        f"{path or 'the job'} is {value}; {', or '.join(dict.fromkeys(texts))}"
        for (path, value), texts in expectations.items()
    ]
    return list(dict.fromkeys(lines))


def _format_expectation(problem: ErrorDetails) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "it must be a mapping of keys to values"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")


def _suggest_key(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(sorted(known))}"


def _format_value(loc: _Location, value: object) -> str:
    if any(step == "storage_options" for step in loc):
        return "set"
    text = repr(value)
    if isinstance(value, dict):  # the keys only: among the values may be storage options
        text = f"a mapping of {', '.join(map(str, value))}" if value else "{}"
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        text = f"a list of {len(value)}"
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


# --- From pydantic's location to the path in the file. Pydantic 2.12 puts steps into a location that are in no file:
# the name of the member of a union that it tried. It has no public way to distinguish them from keys.


@dataclass(frozen=True, kw_only=True)
class _FileLocation:
    """The path of a mistake in the file, the keys that are allowed there, and the union members it was reported for."""

    path: str
    known_keys: frozenset[str]
    members: tuple[_Location, ...]


_COSTS = {"extra_forbidden": 1, "missing": 1, "union_tag_not_found": 100}
"""How strongly a problem suggests that another member of the union was meant."""


def _drop_unlikely_members(
    problems: list[tuple[_FileLocation, ErrorDetails]],
) -> list[tuple[_FileLocation, ErrorDetails]]:
    """Drop the problems of those members of a union that were probably not meant: the ones with more wrong keys."""
    costs: Counter[_Location] = Counter()
    for location, problem in problems:
        for member in location.members:
            costs[member] += _COSTS.get(problem["type"], 0)
    least: dict[_Location, int] = {}
    for member, cost in costs.items():
        least[member[:-1]] = min(cost, least.get(member[:-1], cost))
    return [
        (location, problem)
        for location, problem in problems
        if all(costs[member] == least[member[:-1]] for member in location.members)
    ]


def _locate(loc: _Location, model: type[Spec], content: Any) -> _FileLocation:
    """Follow pydantic's location through the types, and through `content` for keys under an old name."""
    path, annotations, known_keys = "", (model,), frozenset(model.model_fields)
    chosen_members: list[_Location] = []
    for i, step in enumerate(loc):
        members = _list_members(annotations)
        models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        if isinstance(step, int):
            path, annotations, content = f"{path}[{step}]", _item_types(members), _get_item(content, step)
        elif len(members) > 1:
            annotations = _choose_member(step, models)
            chosen_members += [loc[: i + 1]] if annotations else []
        elif models:
            known_keys = frozenset(models[0].model_fields)
            key = _key_in_file(step, models[0], content)
            path, annotations, content = _join_path(path, key), _field_type(models[0], step), _get_item(content, key)
        elif any(get_origin(member) is dict for member in members):
            path, annotations = _join_path(path, step), tuple(get_args(member)[1] for member in members)
            content = _get_item(content, step)
    return _FileLocation(path=path, known_keys=known_keys, members=tuple(chosen_members))


def _key_in_file(key: str, model: type[BaseModel], content: Any) -> str:
    """Return the old name of a renamed key if the file uses the old name, else the key."""
    if issubclass(model, Spec) and isinstance(content, dict) and key not in content:
        return next((old for old, new in model.renamed_keys.items() if new == key and old in content), key)
    return key


def _get_item(content: Any, step: int | str) -> Any:
    try:
        return content[step]
    except (LookupError, TypeError):
        return None


def _join_path(path: str, step: str) -> str:
    return f"{path}.{step}" if path and not step.startswith("[") else f"{path}{step}"


def _list_members(annotations: Iterable[Any]) -> tuple[Any, ...]:
    """Return the alternatives that pydantic tries, without None, for which it makes no step."""
    members: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Annotated:
            members += _list_members(get_args(annotation)[:1])
        elif origin in (Union, types.UnionType):
            members += _list_members(get_args(annotation))
        elif annotation is not types.NoneType:
            members.append(annotation)
    return tuple(members)


def _item_types(members: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        item for member in members if get_origin(member) in (list, tuple, set) for item in get_args(member)[:1]
    )


def _choose_member(step: str, models: Sequence[type[BaseModel]]) -> tuple[Any, ...]:
    """Return the member of a union that a step names: by its `kind`, by its class, or as a union within the union."""
    if step.startswith("tagged-union["):
        return tuple(model for model in models if "kind" in model.model_fields)
    return tuple(
        model for model in models if step == model.__name__ or step in _literal_values(model.model_fields.get("kind"))
    )


def _literal_values(field: FieldInfo | None) -> tuple[Any, ...]:
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _field_type(model: type[BaseModel], key: str) -> tuple[Any, ...]:
    field = model.model_fields.get(key)
    return () if field is None else (field.annotation,)

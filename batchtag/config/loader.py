"""Job files of every kind: YAML in, a typed spec out, or one line for every mistake in it.

What a job may say is each spec's own; how a file is read, and how a mistake in it is told, is here, and the same for
all. Advice comes from walking the spec as pydantic walked it, so a new section, kind or list needs nothing here. A
value is shown only where it is small, and never out of a mapping: among the keys may be credentials.
"""

from __future__ import annotations

import difflib
import re
import types
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from batchtag.config.base import Spec
from batchtag.errors import JobFileError

S = TypeVar("S", bound=Spec)
_Loc = tuple[int | str, ...]

_KINDS = {
    "a tagging job": ({"source", "models"}, "batchtag run"),
    "a training job": ({"data"}, "batchtag train"),
}
"""What a kind of job is called, the keys that tell it, and the command that takes it."""


class Mistakes(ValueError):
    """What a validator raises for several mistakes at once: lines that begin with the path below the value it checked.

    `Mistakes(["[1].name is 'a', as ..."])` out of the validator of `models` is told as `models[1].name is 'a', as ...`.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


class _JobLoader(yaml.SafeLoader):
    """YAML as 1.2 has it: `on`, `off`, `yes` and `no` are words, not booleans. A key that comes twice is a mistake."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} comes twice")
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_job_file(path: str | Path) -> dict[str, Any]:
    """The plain data of a YAML file, nothing of it checked yet. Raises JobFileError if it is no such file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JobFileError(f"{path}: is not UTF-8 text; a job is a YAML file, see jobs/ for examples") from error
    try:
        content = yaml.load(text, Loader=_JobLoader)
    except yaml.YAMLError as error:
        raise JobFileError(f"{path}: is not YAML: {_yaml_mistake(error)}") from None
    if not isinstance(content, dict):
        raise JobFileError(f"{path}: holds {type(content).__name__}, not the keys of a job; see jobs/ for examples")
    return content


def _yaml_mistake(error: yaml.YAMLError) -> str:
    """Where and what, but not PyYAML's own text: it shows the line, and quotes from it, where a secret may stand."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    problem = re.sub(r"'[^']{4,}'", "'...'", error.problem or "it cannot be read")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def parse(model: type[S], content: dict[str, Any], *, origin: str) -> S:
    """The plain data of a job as its spec. Raises JobFileError, one line a mistake, each beginning with `origin`."""
    _check_kind(model, content, origin=origin)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise JobFileError("\n".join(f"{origin}: {line}" for line in _lines(error, model))) from None


def _check_kind(model: type[Spec], content: dict[str, Any], *, origin: str) -> None:
    """A job of another kind is told so in one line, not as a list of all the keys that it should not have."""
    mine = next((kind for kind, (keys, _) in _KINDS.items() if keys <= set(model.model_fields)), None)
    if mine is None or _KINDS[mine][0] & set(content):
        return
    for kind, (keys, command) in _KINDS.items():
        if kind != mine and keys <= set(content):
            raise JobFileError(
                f"{origin}: is {kind} (it has {' and '.join(sorted(keys))}): give it to `{command}`. "
                f"`{_KINDS[mine][1]}` takes {mine}, which has {' and '.join(sorted(_KINDS[mine][0]))}"
            )


def _lines(error: ValidationError, model: type[Spec]) -> list[str]:
    """One line per mistake; what several kinds of a union say about one value is one line."""
    lines: list[str] = []
    said: dict[tuple[str, str], list[str]] = {}
    problems = _of_likely_members(
        [(_walk(problem["loc"], model), problem) for problem in error.errors(include_url=False)]
    )
    for place, problem in problems:
        path, cause = place.path, problem.get("ctx", {}).get("error")
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"{path} is not a key of a job{_nearest(str(problem['loc'][-1]), place.known)}")
            case "missing":
                lines.append(f"{path} is missing")
            case "invalid_key":
                lines.append(f"the key {problem['loc'][-1]!r} is no word; the keys of a job are words")
            case "union_tag_not_found":
                lines.append(f"{path}.kind is missing")
            case "union_tag_invalid":
                context = problem["ctx"]
                lines.append(f"{path}.kind is {context['tag']!r}; it must be one of {context['expected_tags']}")
            case "value_error" if isinstance(cause, Mistakes):
                lines += [_below(path, line) for line in cause.lines]
            case "value_error" if isinstance(problem["input"], dict):  # of several keys together: no one value is wrong
                lines.append(f"{path}: {cause}" if path else str(cause))
            case _ if not any(other.path.startswith((f"{path}.", f"{path}[")) for other, _ in problems):
                said.setdefault((path, _shown(problem["loc"], problem["input"])), []).append(_expected(problem))
    lines += [
        f"{path or 'the job'} is {value}; {', or '.join(dict.fromkeys(texts))}" for (path, value), texts in said.items()
    ]
    return list(dict.fromkeys(lines))


def _expected(problem: ErrorDetails) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "it must be a mapping of keys to values"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a mistake is, as a person writes it; the keys known there; the members of unions that it speaks for."""

    path: str
    known: frozenset[str]
    members: tuple[_Loc, ...]


_COSTS = {"extra_forbidden": 1, "missing": 1, "union_tag_not_found": 100}


def _of_likely_members(problems: list[tuple[_Place, ErrorDetails]]) -> list[tuple[_Place, ErrorDetails]]:
    """Without the complaints of those members of a union that were hardly meant: more of whose keys are wrong."""
    costs: Counter[_Loc] = Counter()
    for place, problem in problems:
        for member in place.members:
            costs[member] += _COSTS.get(problem["type"], 0)
    least: dict[_Loc, int] = {}
    for member, cost in costs.items():
        least[member[:-1]] = min(cost, least.get(member[:-1], cost))
    return [
        (place, problem)
        for place, problem in problems
        if all(costs[member] == least[member[:-1]] for member in place.members)
    ]


def _below(path: str, step: str) -> str:
    return f"{path}.{step}" if path and not step.startswith("[") else f"{path}{step}"


def _walk(loc: _Loc, model: type[Spec]) -> _Place:
    """Follows pydantic's steps through the types: the steps that name a union's member are in no file."""
    path, here, known = "", (model,), frozenset(model.model_fields)
    chosen: list[_Loc] = []
    for i, step in enumerate(loc):
        members = _members(here)
        models = [one for one in members if isinstance(one, type) and issubclass(one, BaseModel)]
        if isinstance(step, int):
            path, here = f"{path}[{step}]", _items(members)
        elif len(members) > 1:
            here = _chosen(step, models)
            chosen += [loc[: i + 1]] if here else []
        elif models:
            known = frozenset(models[0].model_fields)
            path, here = _below(path, step), _field(models[0], step)
        elif any(get_origin(one) is dict for one in members):
            path, here = _below(path, step), tuple(get_args(one)[1] for one in members)
    return _Place(path=path, known=known, members=tuple(chosen))


def _members(annotations: Iterable[Any]) -> tuple[Any, ...]:
    """The alternatives that pydantic tries, without None, for which it takes no step."""
    found: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is Annotated:
            found += _members(get_args(annotation)[:1])
        elif origin in (Union, types.UnionType):
            found += _members(get_args(annotation))
        elif annotation is not types.NoneType:
            found.append(annotation)
    return tuple(found)


def _items(members: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(arg for one in members if get_origin(one) in (list, tuple, set) for arg in get_args(one)[:1])


def _chosen(step: str, models: Sequence[type[BaseModel]]) -> tuple[Any, ...]:
    """The member of a union that pydantic calls so: by its `kind`, by its class, or a union within the union."""
    if step.startswith("tagged-union["):
        return tuple(one for one in models if "kind" in one.model_fields)
    return tuple(one for one in models if step == one.__name__ or step in _literals(one.model_fields.get("kind")))


def _literals(field: FieldInfo | None) -> tuple[Any, ...]:
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _field(model: type[BaseModel], step: str) -> tuple[Any, ...]:
    field = model.model_fields.get(step)
    return () if field is None else (field.annotation,)


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(sorted(known))}"


def _shown(loc: _Loc, value: object) -> str:
    if any(step == "storage_options" for step in loc):
        return "set"
    text = repr(value)
    if isinstance(value, dict):  # never what is in it: among it may be storage options
        text = f"a mapping of {', '.join(map(str, value))}" if value else "{}"
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        text = f"a list of {len(value)}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def set_value(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Let a flag win over the file, where the file's own mistakes can still be reported. None and "" are no value."""
    if value in (None, ""):
        return
    for step in path[:-1]:
        section = content.setdefault(step, {})
        if not isinstance(section, dict):
            return
        content = section
    content[path[-1]] = value

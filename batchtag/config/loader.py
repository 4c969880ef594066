"""Job files of every kind: YAML in, a typed spec out, or a JobFileError with one line for every mistake.

What a job may contain is in the specs; how mistakes are worded is in `mistakes`. This module reads the file and finds
out whether it is a job of the other kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from batchtag.config.base import Spec
from batchtag.config.mistakes import mistake_lines
from batchtag.errors import JobFileError

S = TypeVar("S", bound=Spec)

_JOB_KINDS = {
    "a tagging job": ({"source", "models"}, "batchtag run"),
    "a training job": ({"data"}, "batchtag train"),
}
"""By the name of a kind of job: the keys that identify it, and the command that takes it."""


class _JobLoader(yaml.SafeLoader):
    """YAML 1.2 in two points: `on`, `off`, `yes` and `no` are words, not booleans, and a repeated key is a mistake."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises YAMLError for a repeated key, of which PyYAML would silently use the last."""
        seen = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is repeated")
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_job_file(path: str | Path) -> dict[str, Any]:
    """Read the plain data of a YAML file; its keys are not checked yet. Raises JobFileError if it is not such a
    file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JobFileError(f"{path}: is not UTF-8 text; a job is a YAML file, see jobs/ for examples") from error
    try:
        content = yaml.load(text, Loader=_JobLoader)
    except yaml.YAMLError as error:
        raise JobFileError(f"{path}: is not YAML: {_describe_yaml_error(error)}") from None
    if not isinstance(content, dict):
        raise JobFileError(f"{path}: holds {type(content).__name__}, not the keys of a job; see jobs/ for examples")
    return content


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    """Return the place and the problem, without PyYAML's quotation of the line: it may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    problem = re.sub(r"'[^']{4,}'", "'...'", error.problem or "it cannot be read")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def parse_spec(model: type[S], content: dict[str, Any], *, origin: str) -> S:
    """Turn the plain data of a job into its spec.

    Raises JobFileError with one line for every mistake; each line begins with `origin`, the name of the file.
    """
    _check_job_kind(model, content, origin=origin)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = mistake_lines(error, model, content)
        raise JobFileError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _check_job_kind(model: type[Spec], content: dict[str, Any], *, origin: str) -> None:
    """Raise JobFileError with one line for a job of the other kind, not with a list of all its unknown keys."""
    expected = next((kind for kind, (keys, _) in _JOB_KINDS.items() if keys <= set(model.model_fields)), None)
    if expected is None or _JOB_KINDS[expected][0] & set(content):
        return
    expected_keys, expected_command = _JOB_KINDS[expected]
    for kind, (keys, command) in _JOB_KINDS.items():
        if kind != expected and keys <= set(content):
            raise JobFileError(
                f"{origin}: is {kind} (it has {' and '.join(sorted(keys))}): give it to `{command}`. "
                f"`{expected_command}` takes {expected}, which has {' and '.join(sorted(expected_keys))}"
            )


def set_value(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set the value of a flag over that of the file, in place. None and "" mean that the flag was not given.

    A section that is not a mapping stays as it is, so that the file's own mistake can still be reported.
    """
    if value in (None, ""):
        return
    for step in path[:-1]:
        section = content.setdefault(step, {})
        if not isinstance(section, dict):
            return
        content = section
    content[path[-1]] = value

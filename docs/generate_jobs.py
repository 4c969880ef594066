"""Write docs/jobs.md from the typed specification in batchtag/config/: every key with its type, default and meaning.

    python docs/generate_jobs.py            writes the page; `make docs` does it first
    python docs/generate_jobs.py --check    exits with 1 if the page in the repository is out of date

The words are the docstrings of the specification, so that a key has one description. A test compares the page.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from batchtag.config.job import JobSpec
from batchtag.config.training import TrainSpec

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "jobs.md"

_HEAD = """\
<!-- Written by docs/generate_jobs.py from batchtag/config/. Change the docstrings there, then run `make docs`. -->

# Job files

A job file is YAML. `batchtag run` and `batchtag submit` take a tagging job, `batchtag train` takes a training job. An
unknown key is an error, and all mistakes of a file are reported at once, each with its path and value. Relative local
paths are relative to the folder in which the command is started.

The files in [jobs/](../jobs/) are examples with comments. Two of them are shown here whole.
"""
_TAGGING = """\
## A tagging job

The smallest useful one, [jobs/photos.yaml](../jobs/photos.yaml):
"""
_TRAINING = """\
## A training job

The detector of the demo, [jobs/demo/detector.yaml](../jobs/demo/detector.yaml). [Training](training.md) explains it.
"""
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}


def jobs_page() -> str:
    """Return the whole page as Markdown."""
    blocks = [_HEAD]
    for text, spec, example in (
        (_TAGGING, JobSpec, "jobs/photos.yaml"),
        (_TRAINING, TrainSpec, "jobs/demo/detector.yaml"),
    ):
        blocks += [text, f"```yaml\n{(ROOT / example).read_text().strip()}\n```\n"]
        paths: dict[type[BaseModel], list[str]] = {}
        for path, model in walk(spec):
            paths.setdefault(model, []).append(path)
        blocks += [_section(list(dict.fromkeys(where)), model) for model, where in paths.items()]
    return "\n".join(blocks)


def walk(spec: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the specification and all that lies in it, each with its path in the file, top down."""
    yield path, spec
    for name, field in spec.model_fields.items():
        for model, is_list in _models_in(field.annotation):
            yield from walk(model, f"{path}.{name}".lstrip(".") + "[]" * is_list)


def _models_in(annotation: Any, *, is_list: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if inspect.isclass(annotation) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation, is_list
    elif get_origin(annotation) is Annotated:
        yield from _models_in(get_args(annotation)[0], is_list=is_list)
    else:
        for part in get_args(annotation):
            yield from _models_in(part, is_list=is_list or get_origin(annotation) is list)


def _section(paths: list[str], spec: type[BaseModel]) -> str:
    kind = spec.model_fields.get("kind")
    title = " and ".join(f"`{path}`" for path in paths) if paths != [""] else "Keys of the file"
    if kind is not None:
        title += f" of kind `{kind.default}`"
    lines = [f"### {title}", "", _markdown(inspect.cleandoc(spec.__doc__ or "")), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in sorted(spec.model_fields.items(), key=lambda item: item[0] != "kind"):
        cells = (f"`{name}`", _type_text(field), _default(field), _markdown(meaning(field)))
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def meaning(field: FieldInfo) -> str:
    """Return the description of a key: its own, or the first sentence of the one specification that it holds."""
    models = [model for model, _ in _models_in(field.annotation)]
    if field.description or len(models) != 1:
        return field.description or ""
    return inspect.cleandoc(models[0].__doc__ or "").split("\n\n")[0]


def _markdown(text: str) -> str:
    """Docstrings are Markdown but for angle brackets, which HTML would swallow outside code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in pieces)


def _type_text(field: FieldInfo) -> str:
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, limits: Any = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(parts[0], parts[1:])
    if origin is Literal:
        return _either([f"`{json.dumps(value) if value == '' else value}`" for value in parts])
    if origin in (Union, types.UnionType):
        kinds = [part for part in parts if part is not type(None)]
        if any(model for part in kinds for model in _models_in(part)):
            literals = [_describe(part) for part in kinds if not list(_models_in(part))]
            return _either([*literals, "keys, see below"])
        return _either([_describe(part, limits) for part in kinds])
    if origin is list:
        item = "" if list(_models_in(annotation)) else f" of {_describe(parts[0])}"
        return f"list{item}" + (", at least one" if _limit(limits, MinLen) else "") + (", see below" * (not item))
    if origin is tuple:
        return f"list of {len(parts)} numbers"
    if origin is dict:
        return "keys and values"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "keys, see below"
    if annotation is JsonValue:
        return "any value"
    return _NAMES[annotation] + _limits_text(limits)


def _limits_text(limits: Any) -> str:
    words = []
    for kind, attribute, text in (
        (Ge, "ge", "at least {:,}"), (Gt, "gt", "above {:,}"), (Le, "le", "at most {:,}"), (Lt, "lt", "below {:,}"),
    ):  # fmt: skip
        value = _limit(limits, kind, attribute)
        if value is not None:
            words.append(text.format(value))
    return f", {', '.join(words)}" if words else ""


def _limit(limits: Any, kind: type, attribute: str = "min_length") -> Any:
    for limit in limits:
        inner = getattr(limit, "metadata", None)  # Field(ge=1) inside Annotated
        found = _limit(inner, kind, attribute) if inner else getattr(limit, attribute, None)
        if found is not None and (inner or isinstance(limit, kind)):
            return found
    return None


def _either(choices: list[str]) -> str:
    if len(choices) == 1:
        return choices[0]
    first = ", ".join(choices[:-1])
    return f"{first}; or {choices[-1]}" if "least" in first or "above" in first else f"{first} or {choices[-1]}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", "")
        return f"kind `{kind}`" if kind else "see below"
    if value is None or value in ("", [], {}):
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def main() -> None:
    """Write the page, or check it."""
    page = jobs_page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == page else f"{PAGE} is out of date; run `make docs`")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()

"""The job file, typed: what to tag, with which models, to where. The only thing that `run` obeys, however it was given.

Pydantic at the border: unknown keys are refused, and all mistakes of a file are reported at once, each with its path
and value. Knows nothing of torch or Ray, so a job file is checked in a fraction of a second.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator

from batchtag.border import Spec
from batchtag.decode import FORMATS
from batchtag.errors import JobFileError
from batchtag.models.spec import CheckpointSpec, ConstantSpec, CropsOf, ModelSpec, TorchvisionSpec, model_name
from batchtag.sources.spec import SourceSpec
from batchtag.storage import absolute_uri, scheme_of

_AUTO = Literal["auto"]


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"it must be one of {', '.join(sorted(FORMATS))}")
    return name


class DecodeSpec(Spec):
    """Which bytes become pixels, and how."""

    formats: list[Annotated[str, AfterValidator(_known_format)]] = Field(
        default_factory=lambda: sorted(name for name, on in FORMATS.items() if on)
    )
    """The allow-list. Everything else is `unsupported`, whatever its name says."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Larger pictures are `too_large`, judged from the header. The default is Pillow's own: 1/4 GiB at 24 bits."""
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    """Larger objects are `too_large`, judged before they are fetched."""
    scaled: bool = True
    """Let JPEGs be decoded at 1/2, 1/4 or 1/8 by the DCT where every model still gets twice what it needs."""
    depth: Literal["clip", "scale"] = "clip"
    """16-bit grey: `clip` is what Pillow gives and models saw; `scale` maps the full range, for microscopes."""
    timeout_s: float = Field(default=60.0, gt=0)
    """A picture that takes longer to decode is given up as `timeout`."""


class OutputSpec(Spec):
    """Where the tables go."""

    uri: str = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default_factory=dict)


class ComputeSpec(Spec):
    """How to run it. Changes nothing in the tables, so it may differ from run to run of one job."""

    address: str = ""
    """A Ray cluster to join; by default a private Ray on this machine, or RAY_ADDRESS."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    actors: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    cpus_per_actor: Annotated[float, Field(gt=0)] | _AUTO = "auto"
    batch_size: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    """Images handed to the models at once."""
    bundle_size: Annotated[int, Field(ge=1, le=65_536)] | _AUTO = "auto"
    """Images per bundle. Frozen with the index: it is obeyed when the job first runs."""
    fetches: int = Field(default=32, ge=1, le=512)
    """Objects in flight per worker."""
    decode_threads: Annotated[int, Field(ge=1)] | _AUTO = "auto"


class JobSpec(Spec):
    """One tagging job."""

    version: Literal[1]
    source: SourceSpec
    models: list[ModelSpec] = Field(min_length=1)
    output: OutputSpec
    decode: DecodeSpec = Field(default_factory=DecodeSpec)
    compute: ComputeSpec = Field(default_factory=ComputeSpec)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    """The run stops when more of the images fail than that, judged once 200 have been tried."""

    @field_validator("models")
    @classmethod
    def _check_names(cls, models: list[ModelSpec]) -> list[ModelSpec]:
        mistakes = _model_mistakes(models)
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return models


def _model_mistakes(models: list[ModelSpec]) -> list[str]:
    names = [model_name(model) for model in models]
    mistakes = [
        f"models[{i}].name is {name!r}, as models[{names.index(name)}]'s; give each model a name of its own"
        for i, name in enumerate(names)
        if names.index(name) != i
    ]
    for i, model in enumerate(models):
        if isinstance(model.on, CropsOf):
            target = model.on.crops_of
            if target == names[i] or target not in names:
                others = [name for name in names if name != names[i]]
                mistakes.append(f"models[{i}].on.crops_of is {target!r}; the other models are {others}")
            elif isinstance(models[names.index(target)].on, CropsOf):
                mistakes.append(f"models[{i}].on.crops_of is {target!r}, which itself looks at crops; one level only")
    return mistakes


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


def load_spec(path: str | Path) -> JobSpec:
    """The job in a YAML file. Raises JobFileError with one line for every mistake in it."""
    return make_spec(read_job_file(path), origin=str(path))


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


def make_spec(content: dict[str, Any], *, origin: str) -> JobSpec:
    """The job in plain data, with absolute URIs. `origin` begins every line of the JobFileError."""
    try:
        return with_absolute_uris(JobSpec.model_validate(content))
    except ValidationError as error:
        raise JobFileError("\n".join(_lines(error, origin))) from None


def _lines(error: ValidationError, origin: str) -> list[str]:
    """One line per mistake; what several kinds of a union say about one value is one line."""
    lines: list[str] = []
    said: dict[tuple[str, str], list[str]] = {}
    problems = error.errors(include_url=False)
    for problem in problems:
        path = _path(problem["loc"])
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"{path} is not a key of a job{_nearest(problem['loc'])}")
            case "missing":
                lines.append(f"{path} is missing")
            case "union_tag_not_found":
                lines.append(f"{path}.kind is missing")
            case "union_tag_invalid":
                context = problem["ctx"]
                lines.append(f"{path}.kind is {context['tag']!r}; it must be one of {context['expected_tags']}")
            case "value_error" if problem["loc"] == ("models",):
                lines += str(problem["ctx"]["error"]).split("\n")
            case _ if not any(_path(other["loc"]).startswith((f"{path}.", f"{path}[")) for other in problems):
                text = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
                said.setdefault((path, _shown(problem["loc"], problem["input"])), []).append(text)
    lines += [f"{path} is {value}; {', or '.join(texts)}" for (path, value), texts in said.items()]
    return [f"{origin}: {line}" for line in dict.fromkeys(lines)]


_TAGS = {"prefix", "manifest", "shards", "torchvision", "checkpoint", "constant", "constrained-int", "literal['auto']"}
_SECTIONS: dict[str, type[Spec]] = {"decode": DecodeSpec, "output": OutputSpec, "compute": ComputeSpec}


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in _TAGS and not _is_type_name(step):
            path += f".{step}" if path else step
    return path or "the job"


def _is_type_name(step: str) -> bool:
    return "[" in step or "(" in step or step in {"CropsOf", "int", "float", "str"}


def _shown(loc: tuple[int | str, ...], value: object) -> str:
    if any(step == "storage_options" for step in loc):
        return "set"
    text = repr(value)
    if isinstance(value, dict):  # never what is in it: among it may be storage options
        text = f"a mapping of {', '.join(map(str, value))}" if value else "{}"
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        text = f"a list of {len(value)}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(loc: tuple[int | str, ...]) -> str:
    known = set(JobSpec.model_fields)
    if len(loc) > 1:
        section = _SECTIONS.get(str(loc[0]))
        known = set(section.model_fields) if section else _fields_of_kind(loc)
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(sorted(known))}"


def _fields_of_kind(loc: tuple[int | str, ...]) -> set[str]:
    from batchtag.sources.spec import ManifestSource, PrefixSource, ShardsSource

    if "CropsOf" in loc:
        return set(CropsOf.model_fields)
    kinds = (PrefixSource, ManifestSource, ShardsSource, TorchvisionSpec, CheckpointSpec, ConstantSpec)
    for kind in kinds:
        if kind.model_fields["kind"].default in loc:
            return set(kind.model_fields)
    return set(JobSpec.model_fields)


def with_absolute_uris(spec: JobSpec) -> JobSpec:
    """The same job with every local path made absolute, because workers and later readers stand elsewhere."""
    source: Any = spec.source
    match source.kind:
        case "manifest":
            source = source.model_copy(update={"uri": absolute_uri(source.uri)})
        case _:
            source = source.model_copy(update={"uris": [absolute_uri(uri) for uri in source.uris]})
    models = [
        model.model_copy(update={"uri": absolute_uri(model.uri)}) if isinstance(model, CheckpointSpec) else model
        for model in spec.models
    ]
    output = spec.output.model_copy(update={"uri": absolute_uri(spec.output.uri).rstrip("/")})
    return spec.model_copy(update={"source": source, "models": models, "output": output})


def parse_model(text: str, *, task: Literal["detect", "classify"], weights: str = "", seed: int = 0) -> dict[str, Any]:
    """The model a flag names, as a job file would say it.

    `[torchvision:]<builder>[@WEIGHTS]`, `constant`, or the path or URI of a checkpoint folder (anything with a slash).
    """
    if text == "constant":
        return {"kind": "constant", "task": task}
    if ("/" in text or scheme_of(text) != "file") and not text.startswith("torchvision:"):
        return {"kind": "checkpoint", "uri": text, "task": task}
    builder, _, named = text.removeprefix("torchvision:").partition("@")
    return {
        "kind": "torchvision",
        "builder": builder,
        "weights": named or weights or "DEFAULT",
        "seed": seed,
        "task": task,
    }

"""The job file, typed: what to tag, with which models, to where. The only thing that `run` obeys, however it was given.

Pydantic at the border: unknown keys are refused, and all mistakes of a file are reported at once, each with its path
and value. Knows nothing of torch or Ray, so a job file is checked in a fraction of a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from batchtag.config.base import Spec
from batchtag.config.loader import Mistakes, parse, read_job_file
from batchtag.config.model import CheckpointSpec, CropsOf, ModelSpec, model_name
from batchtag.config.source import SourceSpec
from batchtag.decoding.decoder import FORMATS
from batchtag.storage import absolute_uri, scheme_of

_AUTO = Literal["auto"]
Decode = Literal["auto", "with_models", "own_pool"]


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
    """Larger images are `too_large`, judged from the header. The default is Pillow's own: 1/4 GiB at 24 bits."""
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    """Larger objects are `too_large`, judged before they are fetched."""
    scaled: bool = True
    """Let JPEGs be decoded at 1/2, 1/4 or 1/8 by the DCT where models still get more than they need (decode.MARGIN)."""
    depth: Literal["clip", "scale"] = "clip"
    """16-bit grey: `clip` is what Pillow gives and models saw; `scale` maps the full range, for microscopes."""
    timeout_s: float = Field(default=60.0, gt=0)
    """An image that takes longer to decode is given up as `timeout`."""


class OutputSpec(Spec):
    """Where the tables go."""

    uri: str = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default_factory=dict)


class NodeKind(Spec):
    """A kind of machine that a cluster's autoscaler may start."""

    nodes: int = Field(ge=1)
    """As many as there may be at a time."""
    cpus: float = Field(ge=0)
    gpus: float = Field(default=0, ge=0)


class ComputeSpec(Spec):
    """How to run it. But for `precision`, it changes nothing in the tables, and may differ from run to run of a job."""

    address: str = ""
    """A Ray cluster to join; by default a private Ray on this machine, or RAY_ADDRESS."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What networks compute with; by default OpenVINO on CPUs, where it is installed. Scores differ by rounding."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What networks compute in. 16 bits are for GPUs, and give other rows: of Faster R-CNN's sure boxes some 97 % stay
    within half a pixel and 0.01 in bfloat16; one-stage detectors differ by more."""
    actors: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    cpus_per_actor: Annotated[float, Field(gt=0)] | _AUTO = "auto"
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] | _AUTO = "auto"
    """The part of a GPU that a worker takes: 0.5 puts two on each. By default a worker has one for itself."""
    batch_size: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    """Images handed to the models at once."""
    bundle_size: Annotated[int, Field(ge=1, le=65_536)] | _AUTO = "auto"
    """Images per bundle. Frozen with the index: it is obeyed when the job first runs."""
    fetches: int = Field(default=32, ge=1, le=512)
    """Objects in flight per worker."""
    decode_threads: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    decode: Decode = "auto"
    """Where images are fetched and decoded: in the workers, or by actors on the CPUs they leave free; by default each
    worker measures and moves out where that pays. The tables are the same."""

    may_grow_to: list[NodeKind] = Field(default_factory=list)
    """On an autoscaling cluster: what it may grow to, besides its head. `ray up` leaves it on the head by itself."""
    stall_timeout_s: float = Field(default=600.0, gt=0)
    """When nothing has moved for so long, the run ends with exit 1 and says where it stands still."""
    retries: int = Field(default=0, ge=0)
    """On a cluster: how often a driver that died is begun again there."""
    package: Literal["sent", "image"] = "sent"
    """On a cluster: batchtag travels with the job, or is in the image, in the same version."""
    pip: list[str] = Field(default_factory=list)
    """On a cluster: what is installed on its nodes for the job, as pip is told."""
    env: dict[str, str] = Field(default_factory=dict)
    """On a cluster: environment variables of the job. No secrets: who reaches the cluster can read them."""


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
            raise Mistakes(mistakes)
        return models


def _model_mistakes(models: list[ModelSpec]) -> list[str]:
    names = [model_name(model) for model in models]
    mistakes = [
        f"[{i}].name is {name!r}, as models[{names.index(name)}]'s; give each model a name of its own"
        for i, name in enumerate(names)
        if names.index(name) != i
    ]
    for i, model in enumerate(models):
        if isinstance(model.on, CropsOf):
            target = model.on.crops_of
            if target == names[i] or target not in names:
                others = [name for name in names if name != names[i]]
                mistakes.append(f"[{i}].on.crops_of is {target!r}; the other models are {others}")
            elif isinstance(models[names.index(target)].on, CropsOf):
                mistakes.append(f"[{i}].on.crops_of is {target!r}, which itself looks at crops; one level only")
    return mistakes


def load_spec(path: str | Path) -> JobSpec:
    """The job in a YAML file. Raises JobFileError with one line for every mistake in it."""
    return make_spec(read_job_file(path), origin=str(path))


def make_spec(content: dict[str, Any], *, origin: str) -> JobSpec:
    """The job in plain data, with absolute URIs. `origin` begins every line of the JobFileError."""
    return with_absolute_uris(parse(JobSpec, content, origin=origin))


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

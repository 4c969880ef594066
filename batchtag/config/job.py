"""A tagging job, typed: which images, which models, and where the tables go.

Flags of `batchtag run` and job files both become a JobSpec. Unknown keys are refused, and all mistakes of a file are
reported at once, each with its path and value. Imports neither torch nor Ray, so a file is checked in a fraction of a
second. `rows_depend_on` is the one definition of "the same job".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from batchtag.config.base import Spec
from batchtag.config.loader import parse_spec, read_job_file
from batchtag.config.mistakes import Mistakes
from batchtag.config.model import CheckpointSpec, CropsOf, ModelSpec, model_name
from batchtag.config.source import SourceSpec
from batchtag.decoding.formats import DEFAULT_FORMATS, IMAGE_FORMATS
from batchtag.storage import absolute_uri, scheme_of

_AUTO = Literal["auto"]
Decode = Literal["auto", "with_models", "separate"]


def _check_format(name: str) -> str:
    if name not in IMAGE_FORMATS:
        raise ValueError(f"it must be one of {', '.join(sorted(IMAGE_FORMATS))}")
    return name


class DecodeSpec(Spec):
    """Which images are decoded, and how."""

    formats: list[Annotated[str, AfterValidator(_check_format)]] = Field(
        default_factory=lambda: sorted(DEFAULT_FORMATS)
    )
    """The formats that are decoded. An image of any other format fails as `unsupported`, whatever its name is."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Largest number of pixels; larger images fail as `too_large`, judged from the header. The default is Pillow's own
    limit: 1/4 GiB at 24 bits per pixel."""
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    """Largest size of an object in bytes; larger ones fail as `too_large` before they are fetched."""
    scaled: bool = True
    """Whether JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size. Models still get at least the resolution that they
    require, with a margin (MARGIN in batchtag/decoding/decoder.py)."""
    depth: Literal["clip", "scale"] = "clip"
    """How 16-bit grey becomes 8 bits. `clip` cuts off values above 255, as Pillow does, so it is what models were
    trained on; `scale` maps the full range, for microscope images."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that decoding one image may take; after that it fails as `timeout`."""


class OutputSpec(Spec):
    """Where the tables go."""

    uri: str = Field(min_length=1)
    """The folder of the tables, as a path or URI."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for the folder. Credentials are better given in the environment. Storage
    options are never written into OUT."""


class NodeKind(Spec):
    """A kind of machine that the autoscaler of a cluster may start."""

    nodes: int = Field(ge=1)
    """Largest number of such machines at a time."""
    cpus: float = Field(ge=0)
    """CPUs of one machine."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of one machine."""


class ComputeSpec(Spec):
    """How the job is run. Only `precision` changes the rows of the tables; everything else may differ between the runs
    of one job."""

    renamed_values: ClassVar = {"decode": {"own_pool": "separate"}}

    address: str = ""
    """The Ray cluster to join. By default RAY_ADDRESS, else a private Ray on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. `auto` takes GPUs if there are any."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """The library that networks run with. `auto` takes OpenVINO on CPUs if it is installed, else PyTorch. Scores differ
    by rounding."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The number format that networks compute in. 16 bits are for GPUs, and give other rows: of the confident boxes of
    Faster R-CNN some 97 % stay within half a pixel and 0.01 in bfloat16; one-stage detectors differ by more."""
    actors: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    """Number of workers. `auto` fills the machine or the cluster."""
    cpus_per_actor: Annotated[float, Field(gt=0)] | _AUTO = "auto"
    """CPUs of one worker."""
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] | _AUTO = "auto"
    """The share of a GPU that one worker takes: 0.5 puts two workers on each GPU. `auto` gives each worker a whole
    one."""
    batch_size: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    """Number of images that a model gets at once."""
    bundle_size: Annotated[int, Field(ge=1, le=65_536)] | _AUTO = "auto"
    """Number of images per bundle, the unit of work and of commit. It is fixed with the index, so only the first run of
    a job uses it."""
    fetches: int = Field(default=32, ge=1, le=512)
    """Number of images that one worker fetches at the same time."""
    decode_threads: Annotated[int, Field(ge=1)] | _AUTO = "auto"
    """Number of threads with which one worker decodes."""
    decode: Decode = "auto"
    """Where images are fetched and decoded: in the workers, beside the models (`with_models`), or in decode workers on
    the CPUs that remain free (`separate`). With `auto` each worker measures, and changes to `separate` if that is
    faster. The tables are the same."""

    may_grow_to: list[NodeKind] = Field(default_factory=list)
    """On an autoscaling cluster: the machines that it may have at most, without its head. By default this is read from
    the file that `ray up` leaves on the head."""
    stall_timeout_s: float = Field(default=600.0, gt=0)
    """Seconds without any progress after which the run ends with exit code 1 and reports where it is stuck."""
    retries: int = Field(default=0, ge=0)
    """On a cluster: how often a driver that died is restarted there."""
    package: Literal["sent", "image"] = "sent"
    """On a cluster: whether batchtag is sent with the job (`sent`), or is in the image of the nodes in the same version
    (`image`)."""
    pip: list[str] = Field(default_factory=list)
    """On a cluster: requirements that pip installs on the nodes for this job."""
    env: dict[str, str] = Field(default_factory=dict)
    """On a cluster: environment variables of the job. Secrets are refused, because everybody who reaches the cluster
    can read them."""


class JobSpec(Spec):
    """One tagging job."""

    version: Literal[1]
    """The version of the format of job files."""
    source: SourceSpec
    """Where the images come from."""
    models: list[ModelSpec] = Field(min_length=1)
    """The models to run; each needs a name of its own."""
    output: OutputSpec
    """Where the tables go."""
    decode: DecodeSpec = Field(default_factory=DecodeSpec)
    """Which images are decoded, and how."""
    compute: ComputeSpec = Field(default_factory=ComputeSpec)
    """How the job is run."""
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    """Largest share of images that may fail. The run stops with exit code 3 when more fail; this is checked once 200
    images have been tried."""

    @field_validator("models")
    @classmethod
    def _check_names(cls, models: list[ModelSpec]) -> list[ModelSpec]:
        mistakes = _find_model_mistakes(models)
        if mistakes:
            raise Mistakes(mistakes)
        return models


def _find_model_mistakes(models: list[ModelSpec]) -> list[str]:
    names = [model_name(model) for model in models]
    mistakes = [
        f"[{i}].name is {name!r}, the name of models[{names.index(name)}]; give each model a name of its own"
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
                mistakes.append(
                    f"[{i}].on.crops_of is {target!r}, which itself gets crops; crops of crops are not supported"
                )
    return mistakes


def load_spec(path: str | Path) -> JobSpec:
    """Read the job in a YAML file. Raises JobFileError with one line for every mistake in it."""
    return make_spec(read_job_file(path), origin=str(path))


def make_spec(content: dict[str, Any], *, origin: str) -> JobSpec:
    """Build the job from plain data, with absolute URIs. `origin` begins every line of the JobFileError."""
    return with_absolute_uris(parse_spec(JobSpec, content, origin=origin))


def with_absolute_uris(spec: JobSpec) -> JobSpec:
    """Return the job with every local path made absolute: workers and later readers have other working folders."""
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


def rows_depend_on(spec: JobSpec) -> dict[str, Any]:
    """Return everything in a job that decides the rows of its tables, as plain JSON data without secrets.

    Two jobs are the same job if these are equal: a run then resumes the other's OUT, and a submission finds the other's
    run. Left out are: how the job is run (`compute`, but for `precision`), `max_failure_rate` and `decode.timeout_s`,
    which change between runs; where the tables go; storage options, since other credentials are the same job; and a
    model's `task`, which only checks the model (flags set it, files need not).

    job.json of every OUT holds this, so a key that is renamed in a job file must stay readable there.
    """
    return {
        "version": spec.version,
        "source": spec.source.model_dump(mode="json", exclude={"storage_options"}),
        "decode": spec.decode.model_dump(mode="json", exclude={"timeout_s"}),
        "models": [model.model_dump(mode="json", exclude={"storage_options", "task"}) for model in spec.models],
        "precision": spec.compute.precision,
    }


def parse_model_flag(
    text: str, *, task: Literal["detect", "classify"], weights: str = "", seed: int = 0
) -> dict[str, Any]:
    """Return the model that a flag names, as plain data of a job file.

    `text` is `[torchvision:]<builder>[@WEIGHTS]`, `constant`, or the path or URI of a checkpoint folder (anything with
    a slash).
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

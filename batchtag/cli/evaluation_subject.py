"""What `batchtag evaluate` measures, and on what: an OUT, a checkpoint or a published model, and the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batchtag.cli.options import JOB_SUFFIXES
from batchtag.errors import Code, StorageError, UsageError

if TYPE_CHECKING:
    from batchtag.config.model import CheckpointSpec, TorchvisionSpec
    from batchtag.datasets import Dataset
    from batchtag.evaluation.ground_truth import OnProgress
    from batchtag.evaluation.result import Evaluation

Subject = Literal["out", "checkpoint", "published"]
DEFAULT_SCORE_FLOOR = 0.05
"""Least score of a box that counts; that of a run."""


def find_subject(what: str) -> Subject:
    """Return the kind of thing that the argument names. Raises UsageError for anything that cannot be evaluated."""
    from batchtag.storage import absolute_uri, join_uri, scheme_of

    is_local = scheme_of(what) == "file"
    if is_local and "/" not in what and not Path(what).exists():
        return "published"
    if _is_out(what):
        return "out"
    uri = absolute_uri(what)
    if _exists(join_uri(uri, "model.json")):
        return "checkpoint"
    advice = "name a checkpoint's folder, the --out of a run, or a published model as `batchtag models` lists it"
    if is_local and not Path(uri).exists():
        raise UsageError(f"{what}: does not exist; {advice}")
    if _exists(join_uri(uri, "training.json")):
        raise UsageError(
            f"{what}: is not a checkpoint yet, because its training is unfinished; run the same `batchtag train` again"
        )
    raise UsageError(
        f"{what}: is neither a checkpoint (it has no model.json) nor the output of a run (it has no "
        f"_batchtag/index.json); {advice}"
    )


def _is_out(what: str) -> bool:
    from batchtag.output.index import read_index
    from batchtag.output.layout import Layout
    from batchtag.storage import absolute_uri, open_store

    uri = absolute_uri(what).rstrip("/")
    return read_index(store=open_store(uri), layout=Layout(uri)) is not None


def _exists(uri: str) -> bool:
    from batchtag.storage import open_store

    try:
        open_store(uri).stat(uri)
    except StorageError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return False
    return True


def check_options(
    what: str, subject: Subject, *, model: str, score_floor: float | None, store_thresholds: bool
) -> None:
    """Raise UsageError for options that would be ignored, all of them at once, before anything is measured."""
    mistakes = []
    if model and subject != "out":
        mistakes.append(
            f"--model chooses one of the models of an output, but {what} is a single model; leave the option out"
        )
    if score_floor is not None and subject == "out":
        mistakes.append(
            f"--score-floor applies when a model is run, but {what} is an output whose tags have the score floor of "
            "their run; leave the option out"
        )
    if store_thresholds and subject != "checkpoint":
        mistakes.append(
            f"--store-thresholds writes to a checkpoint, but {what} is not one; name the folder of a checkpoint"
        )
    if mistakes:
        raise UsageError("\n".join(mistakes))


def evaluate_tables(out: str, data: str, *, model: str, on_progress: OnProgress) -> Evaluation:
    """Evaluate the tags in the tables of an OUT. `model` chooses one of its models; "" if it has only one."""
    from batchtag.evaluation.evaluate import evaluate_out

    ground_truth = _read_job_ground_truth(data, on_progress=on_progress) or _open_ground_truth(data)
    return evaluate_out(out, ground_truth, data=data, model=model)


@dataclass(frozen=True, kw_only=True)
class ModelToEvaluate:
    """A checkpoint or a published model, and how to run it."""

    name: str
    is_checkpoint: bool
    score_floor: float
    device: str

    def spec(self) -> CheckpointSpec | TorchvisionSpec:
        """Return the model as a job file would have it."""
        from batchtag.config.model import CheckpointSpec, TorchvisionSpec

        if self.is_checkpoint:
            return CheckpointSpec(uri=self.name, score_floor=self.score_floor)
        builder, _, weights = self.name.partition("@")
        return TorchvisionSpec(builder=builder, weights=weights or "DEFAULT", score_floor=self.score_floor)


def evaluate_single_model(model: ModelToEvaluate, data: str, *, on_progress: OnProgress) -> Evaluation:
    """Run a model on labelled images. It is resolved before images are opened, so a mistyped name fails at once."""
    from batchtag.evaluation.evaluate import choose_device, evaluate_model, prepare_model
    from batchtag.evaluation.ground_truth import check_ground_truth

    spec, device = model.spec(), choose_device(model.device)
    ground_truth = _read_job_ground_truth(data, on_progress=on_progress)
    if ground_truth is None:
        opened = _open_ground_truth(data)
        prepare_model(spec, task=opened.task)
        ground_truth = check_ground_truth(opened, on_progress=on_progress)
    return evaluate_model(spec, ground_truth, data=data, device=device, on_progress=on_progress)


def _read_job_ground_truth(data: str, *, on_progress: OnProgress) -> Dataset | None:
    """Return the checked validation images of a training job; None if `data` is not a training job."""
    from batchtag.config.loader import parse_spec, read_job_file
    from batchtag.config.training import TrainSpec, with_absolute_uris
    from batchtag.evaluation.ground_truth import read_validation_data
    from batchtag.storage import scheme_of

    if not data.endswith(JOB_SUFFIXES) or scheme_of(data) != "file":
        return None
    content = read_job_file(data)
    if not isinstance(content.get("data"), dict) or "train" not in content["data"]:
        return None
    spec = with_absolute_uris(parse_spec(TrainSpec, content, origin=data))
    return read_validation_data(spec.data, on_progress=on_progress)


def _open_ground_truth(data: str) -> Dataset:
    """Read the annotations; no image is opened."""
    from batchtag.evaluation.ground_truth import open_ground_truth
    from batchtag.storage import absolute_uri

    if not Path(data).suffix and _is_out(data):
        raise UsageError(f"{data}: is the output of a run and not ground truth; --data needs labelled images")
    try:
        return open_ground_truth(data)
    except StorageError as error:
        if error.code is Code.NOT_FOUND and error.message.startswith(f"{absolute_uri(data)}:"):
            raise UsageError(f"{data}: does not exist; --data needs labelled images") from error
        raise

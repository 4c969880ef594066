"""Evaluation on the validation images during training: each process predicts its share, the first scores them all."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from torch import nn

from batchtag.errors import RunFailed
from batchtag.evaluation.scoring import Score, score_tags
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import tag_images
from batchtag.training.events import EvaluationProgress
from batchtag.training.plan import TrainPlan
from batchtag.training.process_group import ProcessGroup
from batchtag.training.trainable import Trainable


def evaluate_network(
    network: nn.Module,
    *,
    trainable: Trainable,
    plan: TrainPlan,
    group: ProcessGroup,
    subject: str,
    on_progress: Callable[[EvaluationProgress], None],
) -> Score | None:
    """Return the score of `network` on the validation images in the first process, and None in the others.

    `network` is that of `trainable` or its average. `subject` names it in the events. All processes must call it.
    Raises RunFailed for an image that fails now although it was opened when the data was checked.
    """
    share = plan.val[group.rank :: group.num_processes]
    info, model = trainable.make_model(network, device=group.device)
    results = tag_images(
        [image.uri for image in share],
        [(info, model)],
        storage_options=plan.val_options,
        on_progress=lambda num_done: on_progress(
            EvaluationProgress(subject=subject, num_done=num_done, num_images=len(share))
        ),
    )
    for result in results:
        if result.failure is not None:
            raise RunFailed(
                f"{result.ref.uri} was correct when the data was checked, but cannot be evaluated now: "
                f"{result.failure.code}: {result.failure.message}"
            )
    tables = group.gather(tags_table(results, run_id=""))
    if not group.is_first:
        return None
    return score_tags(pa.concat_tables(tables), plan.val, plan.labels, is_detection=plan.task == "detect")

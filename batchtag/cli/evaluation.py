"""`batchtag evaluate`: measure a model, or the tags that are in tables, against ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batchtag.cli.evaluation_subject import (
    DEFAULT_SCORE_FLOOR,
    ModelToEvaluate,
    check_options,
    evaluate_single_model,
    evaluate_tables,
    find_subject,
)
from batchtag.cli.options import TRAIN
from batchtag.cli.output import Column, print_json, print_line, print_note, print_table, stderr_console

if TYPE_CHECKING:
    from batchtag.evaluation.result import Evaluation

_NUM_PROBLEMS_SHOWN = 3
"""Number of problems of each kind that are printed; the page and the JSON count all of them."""
_NUM_TAGS_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("evaluate", rich_help_panel=TRAIN)(evaluate)


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|MODEL|OUT", help="A checkpoint's folder, a published model, or the --out of a run."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "--truth",
            metavar="DATA",
            help="Labelled images: a COCO .json, a folder (VOC, YOLO, or one per class), a table, or a training job "
            "(its held-out images).",
        ),
    ],
    report: Annotated[
        str, typer.Option(metavar="URI", help="Where evaluation.json and report.html go.")
    ] = "evaluation",
    model: Annotated[str, typer.Option(metavar="MODEL", help="The model, if an OUT has several.")] = "",
    score_floor: Annotated[
        float | None,
        typer.Option(metavar="SCORE", min=0, max=1, help="Least score of a box that counts (default: 0.05)."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")] = "auto",
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Write the best thresholds into the checkpoint.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure a model on labelled images, or the tags of an OUT; write a JSON file and an HTML page."""
    from batchtag.evaluation.result import write_evaluation
    from batchtag.runs.progress import ProgressDisplay, RunProgress

    subject = find_subject(what)
    check_options(what, subject, model=model, score_floor=score_floor, store_thresholds=store_thresholds)
    with ProgressDisplay(stderr_console(), quiet=quiet) as display:

        def on_progress(phase: str) -> None:
            display.show(RunProgress(phase=phase))

        if subject == "out":
            evaluation = evaluate_tables(what, data, model=model, on_progress=on_progress)
        else:
            chosen = ModelToEvaluate(
                name=what,
                is_checkpoint=subject == "checkpoint",
                score_floor=DEFAULT_SCORE_FLOOR if score_floor is None else score_floor,
                device=device,
            )
            evaluation = evaluate_single_model(chosen, data, on_progress=on_progress)
        on_progress("writing the report")
        uris = write_evaluation(evaluation, report)
    if store_thresholds:
        _store_thresholds(what, evaluation, quiet=quiet)
    if as_json:
        print_json(evaluation.as_dict())
    elif not quiet:
        _print_evaluation(evaluation)
        print_note(f"written: {', '.join(uris)}")


def _store_thresholds(checkpoint: str, evaluation: Evaluation, *, quiet: bool) -> None:
    from batchtag.models.checkpoint.checkpoint_writer import record_results

    thresholds = evaluation.score.metrics.thresholds()
    record_results(checkpoint, thresholds=thresholds)
    if not quiet:
        print_note(f"{len(thresholds)} thresholds stored in {checkpoint}; the next run writes them beside its tables")


def _print_evaluation(evaluation: Evaluation) -> None:
    from batchtag.datasets.validate import problem_lines
    from batchtag.evaluation.ground_truth import ON_PROBLEM
    from batchtag.evaluation.result import class_rows, headline_text

    score = evaluation.score
    headings, rows = class_rows(score)
    columns = [Column(heading=heading, is_number=i > 0, folds=i == 0) for i, heading in enumerate(headings)]
    print_table(columns, rows)
    plural = "" if score.num_images == 1 else "s"
    print_line(f"{evaluation.model} on {score.num_images:,} image{plural}: {headline_text(score)}")
    problems = evaluation.ground_truth.problems
    for line in problem_lines(problems, on_problem=ON_PROBLEM, per_kind=_NUM_PROBLEMS_SHOWN):
        print_note(line)
    if score.num_unknown_tags:
        names = ", ".join(score.unknown_tags[:_NUM_TAGS_SHOWN])
        num_more = len(score.unknown_tags) - _NUM_TAGS_SHOWN
        more = f" and {num_more:,} more" if num_more > 0 else ""
        print_note(f"{score.num_unknown_tags:,} tags left out: the ground truth has no class {names}{more}")
    if evaluation.note:
        print_note(evaluation.note)

"""The content of the report of a detector: COCO's figures, and what a reader with the recommended thresholds gets."""

from __future__ import annotations

import math

import numpy as np

from batchtag.evaluation.metrics import DetectionLabel, DetectionMetrics
from batchtag.evaluation.report.content import (
    Card,
    Cell,
    Content,
    MistakeKind,
    Row,
    Table,
    bar_cell,
    figure_cell,
    weakness_key,
)
from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import format_count, format_name, format_score, format_share
from batchtag.evaluation.report.mistakes import KINDS
from batchtag.evaluation.report.plots import Curve, plot_curves, plot_reliability, plot_sizes


def detector_content(metrics: DetectionMetrics) -> Content:
    """Return the content of a detector's page."""
    return Content(
        model_type="detector",
        lead=_lead(metrics),
        cards=_cards(metrics),
        table=_table(metrics),
        plots=(
            _precision_recall_plot(metrics),
            plot_sizes(metrics.summary),
            plot_reliability(
                metrics.calibration, correct_if="its box overlaps a true one of its class by half (IoU 0.50)"
            ),
        ),
        mistake_kinds=_mistake_kinds(metrics),
    )


def _lead(metrics: DetectionMetrics) -> str:
    images = format_count(metrics.num_images, "image")
    if not metrics.num_true:
        return f"The {images} have no labelled object, so nothing can be detected."
    measured = [label for label in metrics.per_class if label.threshold.precision > 0]
    num_correct = sum(label.threshold.recall * label.num_true for label in measured)
    num_reported = sum(label.threshold.recall * label.num_true / label.threshold.precision for label in measured)
    objects = f"{format_count(metrics.num_true, 'object')} on {images}"
    if not num_correct:
        return f"It detects none of {objects}."
    return (
        f"With the thresholds below it detects {format_share(num_correct / metrics.num_true)} of {objects}, and "
        f"{format_share(num_correct / num_reported)} of what it reports is correct."
    )


def _cards(metrics: DetectionMetrics) -> tuple[Card, ...]:
    figures = [
        ("AP", "COCO's main figure: mean over overlaps (IoU) of 0.50 to 0.95"),
        ("AP50", "a box counts if it overlaps by half (IoU 0.50)"),
        ("AP75", "a box counts if it fits closely (IoU 0.75)"),
        ("AR100", "share of the objects detected, with up to 100 boxes per image"),
    ]
    return tuple(Card(title=key, value=format_score(metrics.summary[key]), meaning=meaning) for key, meaning in figures)


def _mistake_kinds(metrics: DetectionMetrics) -> tuple[MistakeKind, ...]:
    largest = max(metrics.mistake_counts.values(), default=0)
    return tuple(
        MistakeKind(name=KINDS[kind][0], meaning=KINDS[kind][1], num=num, share=num / largest)
        for kind, num in sorted(metrics.mistake_counts.items(), key=lambda item: -item[1])
        if num
    )


def _table(metrics: DetectionMetrics) -> Table:
    columns = (
        ("true", "labelled objects"),
        ("found", "boxes of any score"),
        ("AP", "mean over IoU 0.50 to 0.95"),
        ("AP50", "AP at IoU 0.50"),
        ("threshold", "the score from which to trust this tag: F1 is best there"),
        ("precision", "share of the boxes from the threshold on that are correct"),
        ("recall", "share of the objects that are detected from the threshold on"),
        ("F1", "harmonic mean of precision and recall"),
    )
    labels = sorted(metrics.per_class, key=lambda label: weakness_key(label.AP))
    return Table(columns=columns, rows=tuple(_row(label) for label in labels))


def _row(label: DetectionLabel) -> Row:
    return Row(
        label=format_name(label.label),
        cells=(
            Cell(text=format_count(label.num_true)),
            Cell(text=format_count(label.num_found)),
            bar_cell(label.AP),
            bar_cell(label.AP50),
            Cell(text=format_score(label.threshold.score, 2)),
            figure_cell(label.threshold.precision),
            figure_cell(label.threshold.recall),
            figure_cell(label.threshold.f1),
        ),
    )


def _precision_recall_plot(metrics: DetectionMetrics) -> Plot:
    curves = []
    for label in metrics.per_class:
        is_reached = label.curve.precision > 0
        curves.append(
            Curve(
                label=label.label,
                x=label.curve.recall[is_reached],
                y=label.curve.precision[is_reached],
                figure=label.AP50,
            )
        )
    precisions = [label.curve.precision for label in metrics.per_class if math.isfinite(label.AP50)]
    mean = None
    if precisions:
        mean = Curve(
            label="", x=metrics.per_class[0].curve.recall, y=np.mean(precisions, axis=0), figure=metrics.summary["AP50"]
        )
    return plot_curves(
        curves,
        mean=mean,
        title="Precision and recall",
        caption="To the right, more of the objects are detected; further down, more of the boxes are wrong (IoU 0.50). "
        "A line ends where no more objects are detected.",
        x="recall",
        y="precision",
        figure_name="AP50",
    )

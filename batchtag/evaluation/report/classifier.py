"""The content of the report of a classifier: accuracy, and what is behind it."""

from __future__ import annotations

import math

from batchtag.evaluation.metrics import ClassificationLabel, ClassificationMetrics
from batchtag.evaluation.report.content import Card, Cell, Content, Row, Table, bar_cell, figure_cell, weakness_key
from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import format_count, format_name, format_score, format_share
from batchtag.evaluation.report.plots import Curve, plot_curves, plot_reliability


def classifier_content(metrics: ClassificationMetrics) -> Content:
    """Return the content of a classifier's page."""
    return Content(
        model_type="classifier",
        lead=_lead(metrics),
        cards=_cards(metrics),
        table=_table(metrics),
        plots=(
            _roc_plot(metrics),
            plot_reliability(metrics.calibration, correct_if="the class with the best score is the true one"),
        ),
        mistake_kinds=(),
    )


def _lead(metrics: ClassificationMetrics) -> str:
    if not metrics.num_images:
        return "There are no images to measure it on."
    num_correct = metrics.num_images - metrics.num_mistakes
    num_unpredicted = int(metrics.num_unpredicted.sum())
    lead = (
        f"The prediction is correct for {format_count(num_correct)} of {format_count(metrics.num_images, 'image')} "
        f"({format_share(num_correct / metrics.num_images)})."
    )
    if num_unpredicted:
        images = format_count(num_unpredicted, "image has", "images have")
        lead += f" {images} no prediction, because every score is below the score floor."
    return lead


def _cards(metrics: ClassificationMetrics) -> tuple[Card, ...]:
    figures = [
        ("Accuracy", "accuracy", "the class with the best score is the true one"),
        ("Top 5", "top5", "the true class is among the best five"),
        ("Macro F1", "macro_f1", "mean over the classes: rare ones count as much as common ones"),
        ("AUC", "auc", "probability that an image of a class scores higher than another image"),
    ]
    return tuple(
        Card(title=title, value=format_score(metrics.summary[key]), meaning=meaning)
        for title, key, meaning in figures
        if key != "top5" or math.isfinite(metrics.summary[key])
    )


def _table(metrics: ClassificationMetrics) -> Table:
    columns = (
        ("images", "images of this class"),
        ("predicted", "images that are predicted to be of this class"),
        ("F1", "harmonic mean of precision and recall of the predictions"),
        ("precision", "share of the images predicted to be of this class that are"),
        ("recall", "share of the images of this class that are predicted to be"),
        ("AUC", "probability that an image of this class scores higher than another image"),
        ("threshold", "the score from which to trust this tag, whatever the other scores: F1 is best there"),
        ("F1 at threshold", "F1 of all images that reach the threshold"),
    )
    labels = sorted(metrics.per_class, key=lambda label: weakness_key(label.f1))
    return Table(columns=columns, rows=tuple(_row(label) for label in labels))


def _row(label: ClassificationLabel) -> Row:
    return Row(
        label=format_name(label.label),
        cells=(
            Cell(text=format_count(label.support)),
            Cell(text=format_count(label.num_predicted)),
            bar_cell(label.f1),
            figure_cell(label.precision),
            figure_cell(label.recall),
            figure_cell(label.auc),
            Cell(text=format_score(label.threshold.score, 2)),
            figure_cell(label.threshold.f1),
        ),
    )


def _roc_plot(metrics: ClassificationMetrics) -> Plot:
    curves = [
        Curve(label=label.label, x=label.roc.false_positive_rate, y=label.roc.true_positive_rate, figure=label.auc)
        for label in metrics.per_class
    ]
    return plot_curves(
        curves,
        title="Each class against the others (ROC)",
        caption="The share of a class that is recognised (up) against the share of the other images that are mistaken "
        "for it (right): the steeper, the better. AUC is the area under the curve; its mean is "
        f"{format_score(metrics.summary['auc'])}.",
        x="share of the others mistaken for it",
        y="share of the class recognised",
        figure_name="AUC",
    )

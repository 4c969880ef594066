"""What the page says of a classifier: accuracy, and what is behind it."""

from __future__ import annotations

import math

from batchtag.evaluation.metrics import ClassificationMetrics
from batchtag.evaluation.report.content import Card, Cell, Content, Row, Table, barred, last_if_nan, plain
from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import count, name, score, share
from batchtag.evaluation.report.plots import Curve, curves, reliability


def of_classifier(metrics: ClassificationMetrics) -> Content:
    """The content of its page."""
    summary = metrics.summary
    answered = metrics.num_images - int(metrics.unanswered.sum())
    infos = [
        Card(
            title="Accuracy", value=score(summary["accuracy"]), meaning="the class with the best score is the true one"
        ),
        Card(title="Top 5", value=score(summary["top5"]), meaning="the true one is among the best five"),
        Card(title="Macro F1", value=score(summary["macro_f1"]), meaning="mean over classes: rare ones count as much"),
        Card(title="AUC", value=score(summary["auc"]), meaning="chance that an image of a class outscores another"),
    ]
    if not math.isfinite(summary["top5"]):
        del infos[1]
    right = metrics.num_images - metrics.num_mistakes
    all_of_them = count(metrics.num_images, "image")
    lead = f"Of {all_of_them} it names {count(right)} rightly ({share(right / max(1, metrics.num_images))})."
    if answered < metrics.num_images:
        lead += f" Of {count(metrics.num_images - answered)} it says nothing, because every score is below the floor."
    return Content(
        what="classifier",
        lead=lead if metrics.num_images else "There are no images to judge it by.",
        infos=tuple(infos),
        table=_classifier_table(metrics),
        plots=(_roc(metrics), reliability(metrics.calibration, right="the best class is the true one")),
        wrong=(),
    )


def _classifier_table(metrics: ClassificationMetrics) -> Table:
    columns = (
        ("images", "of this class"),
        ("said", "images said to be of it"),
        ("F1", "harmonic mean of precision and recall of the best-scored class"),
        ("precision", "share of those said to be of it that are"),
        ("recall", "share of its images that are said to be of it"),
        ("AUC", "chance that an image of it outscores another"),
        ("threshold", "the score from which to believe it, whatever else scores: F1 is best there"),
        ("F1 there", "of all images that reach the threshold"),
    )
    ranked = sorted(metrics.per_class, key=lambda one: last_if_nan(one.f1))
    rows = [
        Row(
            label=name(one.label),
            cells=(
                Cell(text=count(one.support)),
                Cell(text=count(one.num_said)),
                barred(one.f1),
                plain(one.precision),
                plain(one.recall),
                plain(one.auc),
                Cell(text=score(one.threshold.score, 2)),
                plain(one.threshold.f1),
            ),
        )
        for one in ranked
    ]
    return Table(columns=columns, rows=tuple(rows))


def _roc(metrics: ClassificationMetrics) -> Plot:
    lines = [
        Curve(label=one.label, x=one.roc.false_positive_rate, y=one.roc.true_positive_rate, figure=one.auc)
        for one in metrics.per_class
    ]
    return curves(
        lines,
        title="Each class against the rest (ROC)",
        caption="How many of a class are caught (up) for how many others are taken for it (right): the steeper, the "
        f"better. AUC is the area below; its mean is {score(metrics.summary['auc'])}.",
        x="share of the others taken for it",
        y="share of the class caught",
        figure_is="AUC",
    )

"""What the page says of a detector: COCO's figures, and what a reader with the recommended thresholds gets."""

from __future__ import annotations

import math

import numpy as np

from batchtag.evaluation.metrics import DetectionMetrics
from batchtag.evaluation.report.content import Card, Cell, Content, Row, Table, Wrong, barred, last_if_nan, plain
from batchtag.evaluation.report.drawing import Plot
from batchtag.evaluation.report.formatting import count, name, score, share
from batchtag.evaluation.report.mistakes import KINDS
from batchtag.evaluation.report.plots import Curve, by_size, curves, reliability


def of_detector(metrics: DetectionMetrics) -> Content:
    """The content of its page."""
    summary = metrics.summary
    infos = (
        Card(title="AP", value=score(summary["AP"]), meaning="COCO's own: mean over overlaps of 0.50 to 0.95"),
        Card(title="AP50", value=score(summary["AP50"]), meaning="a box counts if it overlaps by half (IoU 0.50)"),
        Card(title="AP75", value=score(summary["AP75"]), meaning="boxes must fit closely (IoU 0.75)"),
        Card(title="AR100", value=score(summary["AR100"]), meaning="share found, with up to 100 boxes an image"),
    )
    most = max(metrics.mistake_counts.values(), default=0)
    wrong = tuple(
        Wrong(name=KINDS[kind][0], meaning=KINDS[kind][1], num=num, share=num / most)
        for kind, num in sorted(metrics.mistake_counts.items(), key=lambda item: -item[1])
        if num
    )
    return Content(
        what="detector",
        lead=_detector_lead(metrics),
        infos=infos,
        table=_detector_table(metrics),
        plots=(
            _precision_recall(metrics),
            by_size(summary),
            reliability(metrics.calibration, right="its box overlaps a true one of its class by half"),
        ),
        wrong=wrong,
    )


def _detector_lead(metrics: DetectionMetrics) -> str:
    if not metrics.num_true:
        return f"There is no labelled object on {count(metrics.num_images, 'image')}, so there is nothing to find."
    judged = [one for one in metrics.per_class if one.threshold.precision > 0]
    hits = sum(one.threshold.recall * one.num_true for one in judged)
    said = sum(one.threshold.recall * one.num_true / one.threshold.precision for one in judged)
    objects = f"{count(metrics.num_true, 'object')} on {count(metrics.num_images, 'image')}"
    if not hits:
        return f"Of {objects} it finds none."
    return (
        f"With the thresholds below it finds {share(hits / metrics.num_true)} of {objects}, and "
        f"{share(hits / said)} of what it reports is right."
    )


def _detector_table(metrics: DetectionMetrics) -> Table:
    columns = (
        ("true", "labelled objects"),
        ("found", "boxes of any score"),
        ("AP", "mean over IoU 0.50 to 0.95"),
        ("AP50", "at IoU 0.50"),
        ("threshold", "the score from which to believe it: F1 is best there"),
        ("precision", "share of what is reported from there on that is right"),
        ("recall", "share of the objects that is found"),
        ("F1", "harmonic mean of both"),
    )
    ranked = sorted(metrics.per_class, key=lambda one: last_if_nan(one.AP))
    rows = []
    for one in ranked:
        best = one.threshold
        figures = (best.precision, best.recall, best.f1)
        cells = [Cell(text=count(one.num_true)), Cell(text=count(one.num_found)), barred(one.AP), barred(one.AP50)]
        rows.append(Row(label=name(one.label), cells=(*cells, Cell(text=score(best.score, 2)), *map(plain, figures))))
    return Table(columns=columns, rows=tuple(rows))


def _precision_recall(metrics: DetectionMetrics) -> Plot:
    lines, precisions = [], []
    for one in metrics.per_class:
        reached = one.curve.precision > 0
        lines.append(
            Curve(label=one.label, x=one.curve.recall[reached], y=one.curve.precision[reached], figure=one.AP50)
        )
        if math.isfinite(one.AP50):
            precisions.append(one.curve.precision)
    mean = None
    if precisions:
        mean = Curve(
            label="", x=metrics.per_class[0].curve.recall, y=np.mean(precisions, axis=0), figure=metrics.summary["AP50"]
        )
    return curves(
        lines,
        mean=mean,
        title="Precision and recall",
        caption="Going right, more of what is there is found; going down, more of what is reported is wrong (IoU 0.50)."
        " A line ends where nothing more is found.",
        x="recall",
        y="precision",
        figure_is="AP50",
    )

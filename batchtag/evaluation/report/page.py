"""The HTML page of a report: its parts put into the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from batchtag import __version__
from batchtag.evaluation.metrics import ClassificationMetrics, DetectionMetrics
from batchtag.evaluation.report import confusion, formatting, mistakes
from batchtag.evaluation.report.classifier import classifier_content
from batchtag.evaluation.report.detector import detector_content
from batchtag.evaluation.report.training_curves import plot_training

if TYPE_CHECKING:
    from batchtag.evaluation.report import ReportHeader


def render_page(
    metrics: DetectionMetrics | ClassificationMetrics,
    *,
    header: ReportHeader,
    uris: Sequence[str],
    open_image: mistakes.OpenImage,
    history: Sequence[Mapping[str, float]],
    best_epoch: int,
) -> str:
    """Return the page as HTML text; the arguments are those of `report.render_report`."""
    matrix: confusion.ConfusionMatrix | None = None
    pairs: list[confusion.ConfusedPair] = []
    if isinstance(metrics, DetectionMetrics):
        content = detector_content(metrics)
        shown = mistakes.show_detection_mistakes(metrics.mistakes, open_image=open_image, uris=uris)
        num_mistakes = sum(metrics.mistake_counts.values())
    else:
        content = classifier_content(metrics)
        shown = mistakes.show_classification_mistakes(metrics.mistakes, open_image=open_image, uris=uris)
        num_mistakes = metrics.num_mistakes
        if metrics.num_images:
            matrix, pairs = confusion.draw_matrix(metrics), confusion.find_worst_pairs(metrics)
    return _load_template().render(
        header=header,
        day=f"{header.evaluated_at.day} {header.evaluated_at:%B %Y}",
        content=content,
        num_images=metrics.num_images,
        matrix=matrix,
        pairs=pairs,
        shown=shown,
        num_mistakes=num_mistakes,
        training_plots=plot_training(history, best_epoch=best_epoch) if history else [],
        version=__version__,
    )


def _load_template() -> Template:
    environment = Environment(
        loader=PackageLoader("batchtag.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": formatting.format_name, "count": formatting.format_count}
    return environment.get_template("page.html")

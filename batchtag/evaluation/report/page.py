"""Puts the parts together with the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from batchtag import __version__
from batchtag.evaluation.metrics import ClassificationMetrics, DetectionMetrics
from batchtag.evaluation.report import confusion, formatting, mistakes
from batchtag.evaluation.report.classifier import of_classifier
from batchtag.evaluation.report.detector import of_detector
from batchtag.evaluation.report.training_curves import course

if TYPE_CHECKING:
    from batchtag.evaluation.report import About


def render(
    metrics: DetectionMetrics | ClassificationMetrics,
    *,
    about: About,
    uris: Sequence[str],
    images: mistakes.Images,
    history: Sequence[Mapping[str, float]],
    best_epoch: int,
) -> str:
    """The page as text. What it takes is said at `evalpage.write_page`."""
    matrix: confusion.Matrix | None = None
    pairs: list[confusion.Confusion] = []
    if isinstance(metrics, DetectionMetrics):
        body = of_detector(metrics)
        shown = mistakes.of_detection(metrics.mistakes, images=images, uris=uris)
        num_mistakes = sum(metrics.mistake_counts.values())
    else:
        body = of_classifier(metrics)
        shown = mistakes.of_classification(metrics.mistakes, images=images, uris=uris)
        num_mistakes = metrics.num_mistakes
        if metrics.num_images:
            matrix, pairs = confusion.matrix(metrics), confusion.worst_pairs(metrics)
    return _template().render(
        about=about,
        day=f"{about.evaluated_at.day} {about.evaluated_at:%B %Y}",
        body=body,
        num_images=metrics.num_images,
        matrix=matrix,
        pairs=pairs,
        shown=shown,
        num_mistakes=num_mistakes,
        course=course(history, best_epoch=best_epoch) if history else [],
        version=__version__,
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("batchtag.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": formatting.name, "count": formatting.count, "file_name": formatting.file_name}
    return environment.get_template("page.html")

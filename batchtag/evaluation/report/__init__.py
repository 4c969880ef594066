"""The report of an evaluation: one HTML page with the metrics, their meaning, and the worst mistakes as images.

The page is one file without scripts, fonts or requests (its content security policy forbids them), so that it can be
mailed, and opened in ten years. It follows the reader's light or dark setting, fits a phone, and prints. Everything
that comes from outside (labels, URIs) is escaped. This package computes no metrics; it shows those of
`evaluation.metrics`, which are also in evaluation.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from batchtag.evaluation.metrics import ClassificationMetrics, DetectionMetrics
from batchtag.evaluation.report.mistakes import OpenImage

__all__ = ["OpenImage", "ReportHeader", "render_report"]


@dataclass(frozen=True, kw_only=True)
class ReportHeader:
    """What was evaluated, and when.

    `note` is shown before the metrics; it says what a reader must know to understand them. `facts` are further lines
    for the end of the page, such as versions and settings.
    """

    model: str
    digest: str
    data: str
    evaluated_at: datetime
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def render_report(
    metrics: DetectionMetrics | ClassificationMetrics,
    *,
    header: ReportHeader,
    uris: Sequence[str] = (),
    open_image: OpenImage = lambda _: None,
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int = 0,
) -> str:
    """Return the page as HTML text.

    `uris[i]` and `open_image(i)` belong to image number i of the metrics; only the images that are shown are opened.
    `history` has one entry for each epoch of the training that made the model: `epoch`, `learning_rate`, keys that
    begin with `loss`, and validation metrics by name.
    """
    from batchtag.evaluation.report.page import render_page

    return render_page(metrics, header=header, uris=uris, open_image=open_image, history=history, best_epoch=best_epoch)

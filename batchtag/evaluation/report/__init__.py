"""An evaluation as one HTML page for a person: what the figures are, what they mean, and what went wrong, as images.

One file, which needs nothing: no script, no font, no request to anywhere (its own policy forbids them), so it can be
mailed and opened in ten years. It follows the reader's light or dark, fits a phone, and prints. All that came from
outside (labels, URIs) is escaped. This room computes no figure: they are `metrics`' own, as in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from batchtag.evaluation.metrics import ClassificationMetrics, DetectionMetrics
from batchtag.evaluation.report.mistakes import Images

__all__ = ["About", "Images", "write_page"]


@dataclass(frozen=True, kw_only=True)
class About:
    """What was evaluated. `facts` are further lines for the end of the page, such as versions and settings.

    `note` is what must be known to read the figures, shown before them.
    """

    model: str
    digest: str
    data: str
    evaluated_at: datetime
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def write_page(
    metrics: DetectionMetrics | ClassificationMetrics,
    *,
    about: About,
    uris: Sequence[str] = (),
    images: Images = lambda _: None,
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int = 0,
) -> str:
    """The page. `uris[i]` and `images(i)` are image number i of the metrics; only a few are asked for.

    `history` has one entry an epoch of the training that made the model: `epoch`, `learning_rate`, keys that begin with
    `loss`, and figures of validation by name.
    """
    from batchtag.evaluation.report import page

    return page.render(metrics, about=about, uris=uris, images=images, history=history, best_epoch=best_epoch)

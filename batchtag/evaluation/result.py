"""The result of an evaluation: evaluation.json for programs, report.html for people, and lines for a terminal.

It is made from a score, wherever the score comes from: the end of a training, a model run on labelled images, or the
tables of an output compared with ground truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from batchtag import __version__
from batchtag.datasets import Dataset
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.errors import StorageError
from batchtag.evaluation.metrics import ClassificationLabel, DetectionLabel, DetectionMetrics
from batchtag.evaluation.report import ReportHeader, render_report
from batchtag.evaluation.scoring import Score, headline
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import DecodedImage

JSON_NAME, REPORT_NAME = "evaluation.json", "report.html"
"""The names of the files of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The score of one model on one set of labelled images.

    `ground_truth` has only the images that were scored. `data` names where it came from, and `data_digest` identifies
    its content; `num_problems` counts its problems by kind. `settings` has what else decided the metrics, such as the
    score floor, and `note` what a reader must know about them. `uris_in_out` is the URI of a labelled image in the
    output that was evaluated, by the URI of its label.
    """

    model: str
    digest: str
    data: str
    data_digest: str
    ground_truth: Dataset
    score: Score
    evaluated_at: datetime
    num_problems: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    uris_in_out: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a metric that cannot be measured is None."""
        return {
            "batchtag": __version__,
            "evaluated_at": self.evaluated_at.isoformat(timespec="seconds"),
            "model": {"name": self.model, "digest": self.digest},
            "data": {
                "from": self.data,
                "digest": self.data_digest,
                "num_images": self.score.num_images,
                "labels": list(self.ground_truth.labels),
                "problems": dict(self.num_problems),
            },
            "task": self.ground_truth.task,
            "settings": dict(self.settings),
            "note": self.note,
            "num_unknown_tags": self.score.num_unknown_tags,
            "unknown_tags": list(self.score.unknown_tags),
            "thresholds": self.score.metrics.thresholds(),
            "metrics": self.score.metrics.as_dict(),
        }

    def render_page(self, *, history: Sequence[Mapping[str, float]] = (), best_epoch: int = 0) -> str:
        """Return the HTML page, with the history of a training if there was one. Opens the images that it shows."""
        facts = {name.replace("_", " "): str(value) for name, value in self.settings.items()}
        if self.num_problems:
            facts["problems of the data"] = ", ".join(f"{kind} {count:,}" for kind, count in self.num_problems.items())
        header = ReportHeader(
            model=self.model,
            digest=self.digest,
            data=self.data,
            evaluated_at=self.evaluated_at,
            note=self.note,
            facts=facts | {"digest of the data": self.data_digest[:12]},
        )
        return render_report(
            self.score.metrics,
            header=header,
            uris=[image.uri for image in self.ground_truth.images],
            open_image=self._open_image,
            history=history,
            best_epoch=best_epoch,
        )

    def _open_image(self, number: int) -> DecodedImage | None:
        """Open an image at the URI of its label, or else at its URI in the output.

        Each is tried once; a page without the image is better than one that takes minutes.
        """
        uri = self.ground_truth.images[number].uri
        candidates: list[tuple[str, Mapping[str, Any]]] = [(uri, self.ground_truth.storage_options)]
        if self.uris_in_out.get(uri, uri) != uri:
            candidates.append((self.uris_in_out[uri], {}))
        for candidate, options in candidates:
            try:
                data = open_store(candidate, options).read(candidate).data
            except StorageError:
                continue
            image = decode(data, rules=DecodeRules())
            if isinstance(image, DecodedImage):
                return image
        return None


def write_evaluation(
    evaluation: Evaluation,
    folder: str,
    *,
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Write both files to a folder, which may be a URI, and return their URIs."""
    uris = join_uri(absolute_uri(folder), JSON_NAME), join_uri(absolute_uri(folder), REPORT_NAME)
    text = json.dumps(evaluation.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    page = evaluation.render_page(history=history, best_epoch=best_epoch)
    store = open_store(uris[0], storage_options)
    for uri, content in zip(uris, (text, page), strict=True):
        data = content.encode("utf-8", errors="backslashreplace")
        with_retries(lambda uri=uri, data=data: store.write(uri, data), policy=WRITES)  # type: ignore[misc]
    return uris


def headline_text(score: Score) -> str:
    """Return the headline as text: `AP 0.584, AP50 0.923, ...`."""
    return ", ".join(f"{name} {value:.3f}" for name, value in headline(score).items())


def class_rows(score: Score) -> tuple[list[str], list[list[str]]]:
    """Return the table of classes for a terminal: the names of the columns, and a row for each class."""
    if isinstance(score.metrics, DetectionMetrics):
        columns = ["class", "true", "found", "AP", "AP50", "threshold", "precision", "recall", "F1"]
        return columns, [_detection_row(label) for label in score.metrics.per_class]
    columns = ["class", "images", "predicted", "precision", "recall", "F1", "AUC", "threshold"]
    return columns, [_classification_row(label) for label in score.metrics.per_class]


def _detection_row(label: DetectionLabel) -> list[str]:
    threshold = label.threshold
    figures = (label.AP, label.AP50, threshold.score, threshold.precision, threshold.recall, threshold.f1)
    return [label.label, f"{label.num_true:,}", f"{label.num_found:,}", *map(_format_figure, figures)]


def _classification_row(label: ClassificationLabel) -> list[str]:
    figures = (label.precision, label.recall, label.f1, label.auc, label.threshold.score)
    return [label.label, f"{label.support:,}", f"{label.num_predicted:,}", *map(_format_figure, figures)]


def _format_figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"

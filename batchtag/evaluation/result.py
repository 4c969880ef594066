"""What an evaluation leaves behind: evaluation.json for machines, report.html for a person, lines for a terminal.

Made of a score, whoever scored: a training at its end, a checkpoint on labelled images, or tables against a truth.
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
from batchtag.errors import DecodeError, StorageError
from batchtag.evaluation.metrics import DetectionMetrics
from batchtag.evaluation.report import About, write_page
from batchtag.evaluation.scoring import Score, headline
from batchtag.storage import absolute_uri, join_uri, open_store
from batchtag.storage.retry import WRITES, with_retries
from batchtag.types import DecodedImage

JSON, PAGE = "evaluation.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's score on one set of labelled images. `ground_truth` holds just the images that were judged.

    `data` says where the truth came from and `data_digest` what it was; `num_problems` counts by kind what was wrong
    with it. `settings` is what else decided the figures, such as the score floor, and `note` what a reader must know of
    them. `uris_in_out` says where a labelled image lies too, by its own URI.
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
        """Plain JSON values; what cannot be measured is None."""
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

    def page(self, *, history: Sequence[Mapping[str, float]] = (), best_epoch: int = 0) -> str:
        """The HTML page, with the course of a training if there was one. Opens the images of the worst mistakes."""
        facts = {name.replace("_", " "): str(value) for name, value in self.settings.items()}
        if self.num_problems:
            facts["problems of the data"] = ", ".join(f"{kind} {count:,}" for kind, count in self.num_problems.items())
        about = About(
            model=self.model,
            digest=self.digest,
            data=self.data,
            evaluated_at=self.evaluated_at,
            note=self.note,
            facts=facts | {"digest of the data": self.data_digest[:12]},
        )
        return write_page(
            self.score.metrics,
            about=about,
            uris=[image.uri for image in self.ground_truth.images],
            images=self._image,
            history=history,
            best_epoch=best_epoch,
        )

    def _image(self, number: int) -> DecodedImage | None:
        """Where the truth says, or else where the run found it; in one attempt, as a page can do without."""
        uri = self.ground_truth.images[number].uri
        places = [(uri, self.ground_truth.storage_options), (self.uris_in_out.get(uri, uri), {})]
        for place, options in places[: 1 + (places[1][0] != uri)]:
            try:
                return decode(open_store(place, options).read(place).data, rules=DecodeRules())
            except (StorageError, DecodeError):
                continue
        return None


def write_evaluation(
    evaluation: Evaluation,
    folder: str,
    *,
    history: Sequence[Mapping[str, float]] = (),
    best_epoch: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Both files into a folder or under a URI; gives their URIs."""
    uris = join_uri(absolute_uri(folder), JSON), join_uri(absolute_uri(folder), PAGE)
    text = json.dumps(evaluation.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    page = evaluation.page(history=history, best_epoch=best_epoch)
    store = open_store(uris[0], storage_options)
    for uri, content in zip(uris, (text, page), strict=True):
        data = content.encode("utf-8", errors="backslashreplace")
        with_retries(lambda uri=uri, data=data: store.write(uri, data), policy=WRITES)  # type: ignore[misc]
    return uris


def headline_text(score: Score) -> str:
    """`AP 0.584, AP50 0.923, ...`."""
    return ", ".join(f"{name} {value:.3f}" for name, value in headline(score).items())


def class_rows(score: Score) -> tuple[list[str], list[list[str]]]:
    """The table of classes for a terminal: column names, and a row for each."""
    if isinstance(score.metrics, DetectionMetrics):
        names = ["class", "true", "found", "AP", "AP50", "threshold", "precision", "recall", "F1"]
        return names, [
            [each.label, f"{each.num_true:,}", f"{each.num_found:,}", *map(_figure, (each.AP, each.AP50, *_at(each)))]
            for each in score.metrics.per_class
        ]
    names = ["class", "images", "said", "precision", "recall", "F1", "AUC", "threshold"]
    return names, [
        [
            each.label,
            f"{each.support:,}",
            f"{each.num_said:,}",
            *map(_figure, (each.precision, each.recall, each.f1, each.auc, each.threshold.score)),
        ]
        for each in score.metrics.per_class
    ]


def _at(each: Any) -> tuple[float, float, float, float]:
    best = each.threshold
    return best.score, best.precision, best.recall, best.f1


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"

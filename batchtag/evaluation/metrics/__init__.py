"""How good a model is, as numbers: truth and answers in, one frozen record out, which says itself as plain JSON.

For detection COCO's figures, for classification scikit-learn's; for both the score from which to believe each class,
calibration, and the worst mistakes. This room opens no image and no table and draws nothing; heavy libraries are
imported where they are called. "Nothing to measure" is nan inside and null in JSON, never 0 and never -1.
"""

from __future__ import annotations

from batchtag.evaluation.metrics.calibration import Calibration
from batchtag.evaluation.metrics.classification import (
    ClassificationLabel,
    ClassificationMetrics,
    ClassificationMistake,
    classification_metrics,
)
from batchtag.evaluation.metrics.detection import (
    DetectionLabel,
    DetectionMetrics,
    PrecisionRecall,
    detection_metrics,
)
from batchtag.evaluation.metrics.detections import Detections
from batchtag.evaluation.metrics.mistakes import DetectionMistake
from batchtag.evaluation.metrics.roc import RocCurve
from batchtag.evaluation.metrics.thresholds import Threshold

__all__ = [
    "Calibration",
    "ClassificationLabel",
    "ClassificationMetrics",
    "ClassificationMistake",
    "DetectionLabel",
    "DetectionMetrics",
    "DetectionMistake",
    "Detections",
    "PrecisionRecall",
    "RocCurve",
    "Threshold",
    "classification_metrics",
    "detection_metrics",
]

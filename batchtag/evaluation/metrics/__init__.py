"""The metrics of a model: ground truth and predictions in, one frozen record out, which converts to plain JSON.

Detection has COCO's metrics and classification scikit-learn's. Both also have the best threshold of each class,
calibration, and the worst mistakes. This package opens no images and no tables and draws nothing; heavy libraries are
imported where they are called. A metric that cannot be measured is nan in the records and null in JSON, never 0 and
never -1.
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

"""What Ray's exporter is told of a worker; that Prometheus gets it, `tests/cluster` proves."""

from __future__ import annotations

import pytest

from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.runs import ray_metrics
from batchtag.runs.ray_metrics import WorkerMetrics


def test_what_a_worker_has_in_hand_is_told_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[float]] = {}

    class Metric:
        """One of Ray's, which remembers."""

        def __init__(self, name: str, description: str, tags: tuple[str, ...]) -> None:
            self._told = told.setdefault(name, [])

        def set(self, value: float, tags: dict[str, str]) -> None:
            self._told.append(value)

        inc = set

    monkeypatch.setattr(ray_metrics, "Counter", Metric)
    monkeypatch.setattr(ray_metrics, "Gauge", Metric)
    metrics = WorkerMetrics("r-1")
    for alive_s, num_waiting, doing in ((1.0, 48, {"b": "looks at images of"}), (2.0, 7, {}), (1.5, 99, {})):
        figures = WorkerHeartbeat(
            counters=RunStats(), alive_s=alive_s, decode_threads=1, fetches=1, num_waiting=num_waiting, doing=doing
        )
        metrics.tell(figures)
    assert told["batchtag_images_waiting"] == [48, 7], "what is older than the last word is not told"
    assert told["batchtag_bundles_in_hand"] == [1, 0]
    assert told["batchtag_images_total"] == []

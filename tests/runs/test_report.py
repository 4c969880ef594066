from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from batchtag.output.layout import Layout
from batchtag.pipeline.stats import CommittedStats
from batchtag.runs.report import RunReport
from batchtag.storage.local import LocalStore
from tests.support.samples import commit


def make_report() -> RunReport:
    report = RunReport(run_id="r-1", out="/tags", started_at="2026-05-01T12:00:00+00:00", num_images=1200)
    committed = CommittedStats()
    committed.add(
        commit(0, 1000, num_tagged=990, num_failed=10, num_tags=4000, failed_by_code={"empty": 1, "truncated": 9})
    )
    report.set_committed(committed.stats)
    return report


def test_a_record_has_every_field_of_the_report_and_can_be_overwritten(tmp_path: Path) -> None:
    report, layout = make_report(), Layout(str(tmp_path))
    report.write(store=LocalStore(), layout=layout)
    report.state = "done"
    report.write(store=LocalStore(), layout=layout)
    stored = json.loads(Path(layout.run("r-1")).read_text())
    assert stored == asdict(report)
    assert (stored["state"], stored["num_done"], stored["num_failed"]) == ("done", 1000, 10)
    assert {"python", "ray", "torch", "batchtag"} <= set(stored["versions"])


def test_the_summary_has_the_sums_of_out_and_the_commonest_failure_first() -> None:
    report = make_report()
    report.state, report.seconds = "too_many_failures", 187.0
    assert report.summary().split("\n") == [
        "run r-1 too many failures after 3 min 07 s: 1,000 of 1,200 images, 990 tagged, 10 failed, 4,000 tags",
        "  failed: truncated 9, empty 1. See: batchtag query /tags 'select * from errors'",
        "  tables: /tags",
    ]


def test_the_summary_of_a_run_that_tagged_has_its_rate_and_its_bottleneck() -> None:
    report = make_report()
    report.this_run = {
        "images": 500,
        "tagging_s": 60.0,
        "images_per_s": 8.333,
        "busy": {"fetch": 0.1, "predict": 1.0},
        "bottleneck": "predict",
    }
    assert (
        "  this run: 500 images in 1 min 00 s of tagging, 8.3/s; busy: fetch 10% predict 100%; bottleneck predict"
        in report.summary()
    )

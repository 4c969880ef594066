from __future__ import annotations

from batchtag.errors import Code
from batchtag.pipeline.stats import CommittedStats, RunStats
from batchtag.types import Failure, ImageResult, Stage
from tests.support.samples import commit, ref


def failed_result(position: int, code: Code) -> ImageResult:
    failure = Failure(stage=Stage.FETCH, code=code, message="no")
    return ImageResult(ref=ref(position), etag="e", size_bytes=10, last_modified=None, failure=failure)


def stats_of(*codes_and_positions: tuple[Code, int], fetch_s: float = 0.0) -> RunStats:
    stats = RunStats(fetch_s=fetch_s)
    for code, position in codes_and_positions:
        stats.add_result(failed_result(position, code))
    return stats


def test_sums_add_up_and_keep_a_few_examples() -> None:
    one = stats_of(*((Code.EMPTY, i) for i in range(5)), fetch_s=0.5)
    other = stats_of((Code.EMPTY, 9), (Code.DENIED, 7), fetch_s=0.25)
    total = one.copy()
    total.add(other)
    assert (total.num_images, total.num_failed, total.num_tagged, total.fetch_s) == (7, 7, 0, 0.75)
    assert total.failed_by_code == {"empty": 6, "denied": 1}
    assert total.examples == {"empty": ["s3://b/0.jpg", "s3://b/1.jpg", "s3://b/2.jpg"], "denied": ["s3://b/7.jpg"]}
    total.add_result(failed_result(8, Code.DENIED))
    assert other.examples["denied"] == ["s3://b/7.jpg"]


def test_a_commit_that_is_reported_twice_counts_once() -> None:
    committed = CommittedStats()
    first = commit(0, 4, num_tagged=3, num_failed=1, num_tags=9, failed_by_code={"empty": 1})
    assert committed.add(first)
    assert not committed.add(first)
    assert committed.add(commit(4, 2))
    stats = committed.stats
    assert (stats.num_images, stats.num_tagged, stats.num_failed, stats.num_tags) == (6, 5, 1, 9)
    assert stats.failed_by_code == {"empty": 1}


def test_sums_survive_json() -> None:
    stats = stats_of((Code.EMPTY, 1), fetch_s=0.125)
    stats.num_decoded_remotely, stats.num_batches, stats.predict_s = 3, 2, 1.5
    assert RunStats.from_json(stats.to_json()) == stats


def test_sums_in_a_record_of_version_0_1_are_read() -> None:
    old = {"images": 5, "failed": 1, "tags": 9, "failed_by_code": {"empty": 1}, "opened_elsewhere": 4}
    stats = RunStats.from_json(old)
    assert (stats.num_images, stats.num_failed, stats.num_tags, stats.num_decoded_remotely) == (5, 1, 9, 4)


def test_work_is_joined_with_images_that_were_counted_elsewhere() -> None:
    work, counted = RunStats(num_images=9, fetch_s=2.0, num_batches=3), stats_of((Code.EMPTY, 0))
    merged = work.with_images_of(counted)
    assert (merged.num_images, merged.num_failed, merged.fetch_s, merged.num_batches) == (1, 1, 2.0, 3)

from __future__ import annotations

import numpy as np

from batchtag.training.sampling import epoch_order, repeat_factors

ONCE = np.ones(10)


def test_an_epoch_uses_every_image_once_in_an_order_of_its_own() -> None:
    first, second = epoch_order(ONCE, seed=1, epoch=1), epoch_order(ONCE, seed=1, epoch=2)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == epoch_order(ONCE, seed=1, epoch=1)
    assert first != epoch_order(ONCE, seed=2, epoch=1)


def test_training_processes_get_equal_shares_of_an_epoch_without_overlap() -> None:
    shares = [epoch_order(ONCE, seed=0, epoch=3, rank=rank, num_processes=3) for rank in range(3)]
    used = [position for share in shares for position in share]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert len(set(used)) == 9


def test_an_image_of_a_rare_class_appears_as_often_as_its_factor_says() -> None:
    ids = [np.array([0])] * 9 + [np.array([1])]
    factors = repeat_factors(ids, num_labels=2)
    np.testing.assert_allclose(factors, [1.0] * 9 + [3.0])  # sqrt(0.9 / 0.1)
    assert epoch_order(factors, seed=0, epoch=1).count(9) == 3


def test_a_fractional_factor_is_met_on_average() -> None:
    counts = [epoch_order(np.array([1.0, 1.25]), seed=0, epoch=epoch).count(1) for epoch in range(400)]
    assert set(counts) == {1, 2}
    assert abs(np.mean(counts) - 1.25) < 0.06


def test_an_image_of_a_common_and_a_rare_class_counts_as_rare_and_one_without_objects_appears_once() -> None:
    ids = [np.array([0]), np.array([0]), np.array([0]), np.array([0, 1]), np.array([], np.int64)]
    np.testing.assert_allclose(repeat_factors(ids, num_labels=3), [1, 1, 1, 2, 1])  # sqrt(0.8 / 0.2)

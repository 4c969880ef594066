from __future__ import annotations

import numpy as np
import pytest

from batchtag.types import DecodedImage, InputResolution, Prediction


def test_pixels_of_another_shape_are_refused_with_expected_and_actual() -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8, got \(4, 4\) uint8"):
        DecodedImage(pixels=np.zeros((4, 4), np.uint8), width=4, height=4, format="png", orientation=1)


def test_a_prediction_whose_arrays_differ_in_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_ids must have shape \(2,\), got \(1,\)"):
        Prediction(scores=np.ones(2, np.float32), label_ids=np.zeros(1, np.int32))
    with pytest.raises(ValueError, match=r"boxes_xyxy must have shape \(1, 4\) or \(0, 4\), got \(2, 4\)"):
        Prediction(
            scores=np.ones(1, np.float32), label_ids=np.zeros(1, np.int32), boxes_xyxy=np.zeros((2, 4), np.float32)
        )


def test_an_input_resolution_has_the_factor_by_which_an_image_is_scaled() -> None:
    assert InputResolution(mode="fit", shorter_px=800, longer_px=1333).scale(4000, 1000) == pytest.approx(1333 / 4000)
    assert InputResolution(mode="fit", shorter_px=800, longer_px=1333).scale(1600, 1200) == pytest.approx(800 / 1200)
    assert InputResolution(mode="cover", shorter_px=256).scale(1024, 512) == 0.5
    assert InputResolution(mode="stretch", shorter_px=300, longer_px=300).scale(600, 1200) == 0.5
    assert InputResolution(mode="full").scale(9000, 9000) == 1.0

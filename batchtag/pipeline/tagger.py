"""Images to results in this process, without Ray and without an OUT: the pipeline's own loader and inference.

Used by evaluation, during training and after it. What is measured is what runs, because the same code loads the images,
predicts and makes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchtag.decoding.decoder import DecodeRules
from batchtag.models import Model
from batchtag.pipeline.inference import predict_batch
from batchtag.pipeline.loader import ImageLoader, LoadPlan
from batchtag.storage import open_store
from batchtag.system import available_cores
from batchtag.types import ImageRef, ImageResult, InputResolution, ModelInfo

_FETCHES = 16
_BATCH_SIZE = 32


def decoder_resolutions(model_infos: Sequence[ModelInfo]) -> tuple[InputResolution, ...]:
    """Return the resolutions that the decoder must deliver: every pixel for a model that classifies crops."""
    return tuple(InputResolution(mode="full") if info.crops_of else info.input_resolution for info in model_infos)


def tag_images(
    uris: Sequence[str],
    models: Sequence[tuple[ModelInfo, Model]],
    *,
    storage_options: Mapping[str, Any] | None = None,
    rules: DecodeRules | None = None,
    decode_timeout_s: float = 60.0,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> list[ImageResult]:
    """Return one result per URI, in the order given: the predictions of every model, or the failure.

    `on_progress` is called after each batch with the number of images done. Raises DecoderHung for an image that hangs
    its decoder, and DeviceLost.
    """
    plan = LoadPlan(
        rules=rules or DecodeRules(),
        resolutions=decoder_resolutions([model_info for model_info, _ in models]),
        decode_timeout_s=decode_timeout_s,
        fetches=_FETCHES,
        decode_threads=available_cores(),
        batch_size=_BATCH_SIZE,
    )
    loader = ImageLoader(plan, store_for=lambda uri: open_store(uri, storage_options))
    results: list[ImageResult] = []
    for batch in loader.load([ImageRef(uri=uri, position=i) for i, uri in enumerate(uris)]):
        results += predict_batch(batch, models)
        on_progress(len(results))
    return results

"""Images to tags without Ray and without an OUT: the line's own stream and models, in this process.

For evaluation, during training and after it: what is measured is what runs, because the same code opens the images,
looks at them and makes the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from batchtag.decoding.decoder import DecodeRules
from batchtag.models import Model
from batchtag.pipeline.inference import look
from batchtag.pipeline.loader import ImageLoader, LoadPlan
from batchtag.storage import open_store
from batchtag.system import available_cores
from batchtag.types import ImageRef, ImageResult, InputResolution, ModelInfo

_FETCHES = 16
_BATCH_IMAGES = 32


def predict(
    uris: Sequence[str],
    models: Sequence[tuple[ModelInfo, Model]],
    *,
    storage_options: Mapping[str, Any] | None = None,
    rules: DecodeRules | None = None,
    decode_timeout_s: float = 60.0,
    told: Callable[[int], None] = lambda num_done: None,
) -> list[ImageResult]:
    """What every model says of each image, in the order given: tags in `findings`, or the failure.

    `told` is called with the number of images done. Raises what `stream` and `look` raise for an image that hangs
    its decoder and a device that is lost.
    """
    outcomes = [ImageResult.of(ImageRef(uri=uri, position=i)) for i, uri in enumerate(uris)]
    plan = LoadPlan(
        rules=rules or DecodeRules(),
        input_resolutions=tuple(
            InputResolution(mode="full") if info.crops_of else info.input_resolution for info, _ in models
        ),
        decode_timeout_s=decode_timeout_s,
        fetches=_FETCHES,
        decode_threads=available_cores(),
        batch_images=_BATCH_IMAGES,
    )
    stream = ImageLoader(plan, store_for=lambda uri: open_store(uri, storage_options))
    for num_done in _looked(stream, outcomes, models):
        told(num_done)
    return outcomes


def _looked(
    stream: ImageLoader, outcomes: Sequence[ImageResult], models: Sequence[tuple[ModelInfo, Model]]
) -> Iterator[int]:
    num_done = 0
    for batch in stream.batches(outcomes):
        look(batch, models)
        num_done += len(batch)
        yield num_done

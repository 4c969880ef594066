"""Pictures to tags without Ray and without an OUT: the line's own stream and models, in this process.

For evaluation, during training and after it: what is measured is what runs, because the same code opens the pictures,
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
_SLAB_IMAGES = 32


def predict(
    uris: Sequence[str],
    models: Sequence[tuple[ModelInfo, Model]],
    *,
    storage_options: Mapping[str, Any] | None = None,
    rules: DecodeRules | None = None,
    decode_timeout_s: float = 60.0,
    told: Callable[[int], None] = lambda num_done: None,
) -> list[ImageResult]:
    """What every model says of each picture, in the order given: tags in `findings`, or the failure.

    `told` is called with the number of pictures done. Raises what `stream` and `look` raise for a picture that hangs
    its decoder and a device that is lost.
    """
    outcomes = [ImageResult.of(ImageRef(uri=uri, position=i)) for i, uri in enumerate(uris)]
    plan = LoadPlan(
        rules=rules or DecodeRules(),
        needs=tuple(InputResolution(mode="full") if card.crops_of else card.need for card, _ in models),
        decode_timeout_s=decode_timeout_s,
        fetches=_FETCHES,
        decode_threads=available_cores(),
        slab_images=_SLAB_IMAGES,
    )
    stream = ImageLoader(plan, store_for=lambda uri: open_store(uri, storage_options))
    for num_done in _looked(stream, outcomes, models):
        told(num_done)
    return outcomes


def _looked(
    stream: ImageLoader, outcomes: Sequence[ImageResult], models: Sequence[tuple[ModelInfo, Model]]
) -> Iterator[int]:
    num_done = 0
    for slab in stream.slabs(outcomes):
        look(slab, models)
        num_done += len(slab)
        yield num_done

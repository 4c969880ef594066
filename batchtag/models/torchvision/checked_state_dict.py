"""Workaround: let a torchvision builder load its published weights from our checked file.

torchvision 0.29 asks the member of a weights enum for its state dict. That method downloads by itself and passes
`weights_only=False` to torch.hub, so a file could run code. Meanwhile the member answers from our file. This module can
go when torchvision's builders take a state dict, or pass `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torchvision.models import WeightsEnum

from batchtag.models.downloads import cache_folder, file_name, load_weights

_ENUM_LOCK = Lock()
"""Held while a member has another method, because members are shared by all threads."""


@contextmanager
def use_checked_state_dict(weights: WeightsEnum) -> Iterator[None]:
    """Within this context, a builder that loads `weights` reads the file in the cache, and nothing but its tensors."""
    with _ENUM_LOCK:
        weights.get_state_dict = lambda **_: load_weights(cache_folder() / file_name(weights.url))
        try:
            yield
        finally:
            del weights.get_state_dict

"""Workarounds for the two settings of Pillow that belong to the whole process and are shared by all threads.

Both are changed in one direction only, so no lock is needed while an image is decoded.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

from PIL import Image

# Workaround 1: Pillow (13.0 too) has only a global pixel limit, and refuses images of more than twice its value.
# To remove when `Image.open` takes the limit as an argument.

_limit_lock = threading.Lock()


def raise_pixel_limit(max_pixels: int) -> None:
    """Raise Pillow's pixel limit so that it opens images of `max_pixels`; never lower it.

    Another job in this process may need the higher limit. Our own limit is checked first, from the header, so the
    global one decides nothing.
    """
    needed = (max_pixels + 1) // 2
    if Image.MAX_IMAGE_PIXELS is not None and needed > Image.MAX_IMAGE_PIXELS:
        with _limit_lock:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, needed)


# Workaround 2: Pillow warns about odd files through `warnings`, and before Python 3.14 `warnings.catch_warnings` is not
# safe in threads. To remove when Python 3.14, with `-X context_aware_warnings`, is the oldest version we support.

_PILLOW_MODULES = r"(PIL|pillow_heif)\."


def ignore_warnings() -> None:
    """Keep Pillow's warnings out of the logs, in every thread, for the life of the process.

    The filter is inserted again when another filter is before it, for example that of a test runner: with "error"
    first, a warning would fail the image.
    """
    first: Any = warnings.filters[0] if warnings.filters else None
    if first is None or getattr(first[3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)

"""The effects of a camera: uneven light, a shadow, a glare, a wrong white balance, blur and noise.

None of them moves anything, so the true boxes stay true.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Plane = NDArray[np.float32]


def photograph(scene: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply the camera's effects to a scene. Returns (H, W, 3) uint8 RGB of the same size."""
    blur = rng.random()
    if blur < 0.12:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.3)))
    elif blur < 0.18:
        scene = scene.filter(ImageFilter.BoxBlur((rng.uniform(0.8, 1.8), 0)))
    light = _light(scene.height, scene.width, rng)
    white_balance = rng.uniform(0.9, 1.1, 3) * rng.uniform(0.82, 1.12)
    noise = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(0.5, 7.0))
    photo = np.empty((*light.shape, 3), np.uint8)
    for channel, plane in enumerate(scene.split()):  # plane by plane is three times as fast as (H, W, 3) at once
        exposed = np.asarray(plane) * (light * np.float32(white_balance[channel])) + noise
        photo[..., channel] = np.clip(exposed, 0, 255, out=exposed)
    return photo


def _light(height: int, width: int, rng: np.random.Generator) -> Plane:
    """Return the light at each pixel, (H, W), about 1: a slope, dark corners, and sometimes a shadow or a glare."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    slope_x, slope_y, corners = rng.uniform(-0.2, 0.2, 3).astype(np.float32)
    corners = np.abs(corners)
    light: Plane = (1 + slope_x * x - corners * x * x) + (slope_y * y - corners * y * y)
    if rng.random() < 0.25:
        tilt, where, depth = (np.float32(rng.uniform(*span)) for span in ((-1, 1), (-0.8, 0.8), (0.15, 0.4)))
        light *= 1 - depth * np.clip((x + tilt * y - where) * 4 + 0.5, 0, 1)
    if rng.random() < 0.2:
        centre_x, centre_y = rng.uniform(-1, 1, 2).astype(np.float32)
        glare = np.exp(-6 * (x - centre_x) ** 2) * np.exp(-6 * (y - centre_y) ** 2)
        light += np.float32(rng.uniform(0.1, 0.5)) * glare
    return light

"""Labelled images without a camera: drawn shelves with products, and their true boxes, shapes and brands.

The models of the demonstration are trained and measured on them: six shapes for a detector, eight brands for a
classifier of the detector's crops. Everything follows from a seed. The package knows nothing of training or of runs,
and needs Pillow and numpy only. A drawn shelf does not look like a photograph. It is meant to be as hard as one for
small networks in the ways that matter here: crowding, overlap, uneven light, noise, and similar brands.
"""

from batchtag.demo.scenes.brands import BRANDS
from batchtag.demo.scenes.files import read_true_inventory, write_crops, write_scenes
from batchtag.demo.scenes.scene import MIN_VISIBLE, Scene, SceneObject, draw_scene
from batchtag.demo.scenes.shapes import SHAPES

__all__ = [
    "BRANDS",
    "MIN_VISIBLE",
    "SHAPES",
    "Scene",
    "SceneObject",
    "draw_scene",
    "read_true_inventory",
    "write_crops",
    "write_scenes",
]

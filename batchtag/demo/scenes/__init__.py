"""Labelled images without a camera: drawn shelf scenes with products, their true boxes, shapes and brands.

They are what the demonstration trains on and is measured by: six shapes for a detector, eight brands for a classifier
that looks at what the detector found. Everything is seeded. It knows nothing of training or of the line, and needs
Pillow and numpy only. A shelf is not meant to pass for a photograph; it is meant to be as hard as one for small
networks in the ways that matter here: crowding, overlap, uneven light, noise, and look-alikes.
"""

from batchtag.demo.scenes.brands import BRANDS
from batchtag.demo.scenes.files import true_inventory, write_crops, write_scenes
from batchtag.demo.scenes.scene import MIN_VISIBLE, Scene, Thing, draw_scene
from batchtag.demo.scenes.shapes import SHAPES

__all__ = [
    "BRANDS",
    "MIN_VISIBLE",
    "SHAPES",
    "Scene",
    "Thing",
    "draw_scene",
    "true_inventory",
    "write_crops",
    "write_scenes",
]

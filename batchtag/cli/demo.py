"""`batchtag demo`: draw shelves, tag them and compare. `batchtag scenes`: draw labelled shelves for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchtag.cli.options import TAG, TRAIN
from batchtag.cli.output import print_note, stderr_console, stdout_console


def register(app: typer.Typer) -> None:
    """Add the command `demo`."""
    app.command("demo", rich_help_panel=TAG)(demo)


def register_scenes(app: typer.Typer) -> None:
    """Add the command `scenes`."""
    app.command("scenes", rich_help_panel=TRAIN)(scenes)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the images, the tables and the report go.")] = Path("demo"),
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Number of images to draw.")] = 48,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=3, help="Seed of the images; by default a new one (1 and 2 trained the models)."),
    ] = None,
) -> None:
    """Draw shelves, count the products on them, verify the tables, and compare with the ground truth."""
    import secrets  # 10 ms, which `--help` need not spend

    from batchtag.demo.run import run_demo

    chosen = secrets.randbelow(1_000_000) + 3 if seed is None else seed
    run_demo(folder, num_images=images, seed=chosen, console=stderr_console(), answer=stdout_console())


def scenes(
    folder: Annotated[Path, typer.Argument(help="Where they go: images/ and instances.json, and crops/.")],
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Number of images to draw.")] = 100,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed draws the same images.")] = 0,
    crops: Annotated[
        bool, typer.Option("--crops", help="Also cut out every product, into one folder per brand.")
    ] = False,
) -> None:
    """Draw images of shelves with COCO annotations, to train and to measure on."""
    from batchtag.demo.scenes import write_crops, write_scenes

    write_scenes(folder, num_images=images, seed=seed)
    if crops:
        write_crops(folder / "crops", num_images=images, seed=seed)
    print_note(f"{images} images in {folder / 'images'}, the ground truth in {folder / 'instances.json'}")

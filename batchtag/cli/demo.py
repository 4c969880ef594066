"""`batchtag demo`: drawn shelves tagged, verified, counted and judged. `batchtag scenes`: such shelves, labelled."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)
    app.command("scenes")(scenes)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the images, the tables and the report go.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=1, help="How many images to draw.")] = 48,
    seed: Annotated[
        int | None,
        typer.Option(min=3, help="Draw these again; by default new ones every time. 1 and 2 trained the models."),
    ] = None,
) -> None:
    """Draw shelves, find and count the products on them, verify, and compare with the truth."""
    from rich.console import Console

    from batchtag.demo.run import run_demo

    chosen = secrets.randbelow(1_000_000) + 3 if seed is None else seed
    run_demo(folder, num_images=images, seed=chosen, console=Console(stderr=True), answer=Console())


def scenes(
    folder: Annotated[Path, typer.Argument(help="Where they go: images/ and instances.json, and crops/.")],
    images: Annotated[int, typer.Option(min=1, help="How many images to draw.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    crops: Annotated[bool, typer.Option("--crops", help="Cut every product out too, into a folder a brand.")] = False,
) -> None:
    """Draw images of shelves with the truth beside them (COCO), to train and to measure on."""
    from batchtag.demo.scenes import write_crops, write_scenes

    write_scenes(folder, num_images=images, seed=seed)
    if crops:
        write_crops(folder / "crops", num_images=images, seed=seed)
    typer.echo(f"{images} images in {folder / 'images'}, the truth in {folder / 'instances.json'}", err=True)

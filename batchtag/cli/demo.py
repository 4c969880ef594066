"""`batchtag demo`: pictures made on the spot, tagged, verified and counted, so that one sees what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("demo")(demo)
    app.command("scenes")(scenes)


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the pictures and the tables go.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=1, help="How many pictures to draw.")] = 48,
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 0,
) -> None:
    """Draw pictures, tag them with untrained models, verify, and show what was found."""
    from rich.console import Console

    from batchtag.demo import run_demo

    run_demo(folder, num_images=images, seed=seed, console=Console(stderr=True), answer=Console())


def scenes(
    folder: Annotated[Path, typer.Argument(help="Where they go: pictures/ and instances.json, and crops/.")],
    images: Annotated[int, typer.Option(min=1, help="How many pictures to draw.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
    crops: Annotated[bool, typer.Option("--crops", help="Cut every product out too, into a folder a brand.")] = False,
) -> None:
    """Draw pictures of shelves with the truth beside them (COCO), to train and to measure on."""
    from batchtag.scenes import write_crops, write_scenes

    write_scenes(folder, num_images=images, seed=seed)
    if crops:
        write_crops(folder / "crops", num_images=images, seed=seed)
    typer.echo(f"{images} pictures in {folder / 'pictures'}, the truth in {folder / 'instances.json'}", err=True)

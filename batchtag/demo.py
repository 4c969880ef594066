"""The demonstration: a folder of drawn pictures with a few broken ones among them, through the whole line.

The models are torchvision's own architectures with untrained weights, because the demonstration must work without a
network: the tables and the figures are real, the tags mean nothing, and the screen says so.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from batchtag.query import query
from batchtag.runs import run_job
from batchtag.spec import make_spec
from batchtag.verify import verify

DETECTOR, CLASSIFIER = "fasterrcnn_mobilenet_v3_large_320_fpn", "mobilenet_v3_small"
_COLOURS = ("crimson", "orange", "gold", "seagreen", "steelblue", "slateblue", "saddlebrown", "orchid")


def draw_pictures(folder: Path, *, num_images: int, seed: int) -> None:
    """Shelves with things on them, as JPEG and PNG, some turned by EXIF; one file cut off, one that is no picture."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    for number in range(num_images):
        picture = _shelf(dice)
        if number % 7 == 3:
            picture.save(folder / f"shelf-{number:04d}.png")
        elif number % 7 == 5:
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.rotate(90, expand=True).save(folder / f"shelf-{number:04d}.jpg", quality=90, exif=exif)
        else:
            picture.save(folder / f"shelf-{number:04d}.jpg", quality=90)
    whole = (folder / "shelf-0000.jpg").read_bytes()
    (folder / "cut-off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "not-a-picture.jpg").write_text("<html>503 Service Unavailable</html>")


def _shelf(dice: random.Random) -> Image.Image:
    width, height = dice.choice([(640, 480), (800, 600), (480, 640)])
    picture = Image.new("RGB", (width, height), dice.choice(["whitesmoke", "linen", "lightsteelblue"]))
    draw = ImageDraw.Draw(picture)
    for board in range(1, 4):
        y = height * board // 4 + height // 8
        draw.rectangle((0, y, width, y + 8), fill="peru")
        x = dice.randint(4, 30)
        while x < width - 60:
            wide, high = dice.randint(24, 56), dice.randint(40, height // 5)
            corners, colour = (x, y - high, x + wide, y), dice.choice(_COLOURS)
            if dice.random() < 0.5:
                draw.ellipse(corners, fill=colour, outline="black")
            else:
                draw.rounded_rectangle(corners, radius=dice.choice([0, 8]), fill=colour, outline="black")
            x += wide + dice.randint(2, 24)
    return picture


def run_demo(folder: Path, *, num_images: int, seed: int, console: Console, answer: Console) -> None:
    """Draw, tag, verify, and print what was found: the story to `console`, the tables to `answer`."""
    pictures, out = folder / "pictures", folder / "tags"
    console.print(f"Drawing {num_images} pictures of shelves, and 2 broken files, into {pictures}", highlight=False)
    draw_pictures(pictures, num_images=num_images, seed=seed)
    untrained = {"kind": "torchvision", "weights": "none", "max_tags": 5, "score_floor": 0.0}
    spec = make_spec(
        {
            "version": 1,
            "source": {"kind": "prefix", "uris": [str(pictures)]},
            "models": [
                {**untrained, "builder": DETECTOR, "task": "detect"},
                {**untrained, "builder": CLASSIFIER, "task": "classify", "max_tags": 1},
            ],
            "output": {"uri": str(out)},
        },
        origin="demo",
    )
    report = run_job(spec, console=console)
    console.print(report.summary(), highlight=False, soft_wrap=True)
    proof = verify(str(out))
    console.print(proof.summary(), highlight=False, soft_wrap=True)
    for title, sql in (
        (
            "What was found",
            "select kind, tag, count(*) as num, round(max(score)::double, 3) as best from tags "
            "group by all order by num desc, tag limit 8",
        ),
        (
            "What could not be tagged",
            "select parse_filename(uri) as picture, stage, code, message from errors order by uri",
        ),
    ):
        answer.print(_table(title, str(out), sql))
    console.print(
        "[bold]The tags mean nothing yet[/bold]: these models are untrained, so that the demo needs no network.\n"
        "With published weights, on your own pictures:\n"
        f"  batchtag run ./photos --out ./tags\n"
        f'  batchtag query {out} "select * from images"',
        highlight=False,
    )


def _table(title: str, out: str, sql: str) -> Table:
    result = query(out, sql)
    table = Table(title=title, title_justify="left")
    for name in result.column_names:
        table.add_column(name)
    for row in result.to_pylist():
        table.add_row(*(str(value) for value in row.values()))
    return table

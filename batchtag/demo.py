"""The demonstration: a folder of drawn pictures with a few broken ones among them, through the whole line.

The models are torchvision's own architectures with untrained weights, because the demonstration must work without a
network: the tables and the figures are real, the tags mean nothing, and the screen says so.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from batchtag.query import query
from batchtag.runs import run_job
from batchtag.scenes import write_scenes
from batchtag.spec import make_spec
from batchtag.verify import verify

DETECTOR, CLASSIFIER = "fasterrcnn_mobilenet_v3_large_320_fpn", "mobilenet_v3_small"


def run_demo(folder: Path, *, num_images: int, seed: int, console: Console, answer: Console) -> None:
    """Draw, tag, verify, and print what was found: the story to `console`, the tables to `answer`."""
    pictures, out = folder / "pictures", folder / "tags"
    console.print(f"Drawing {num_images} pictures of shelves, and 2 broken files, into {pictures}", highlight=False)
    write_scenes(folder, num_images=num_images, seed=seed, broken=True)
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

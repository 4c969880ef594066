"""The demonstration: fresh images of shelves through the whole line, and what was found beside what is there.

The two models are ours, trained by `batchtag train` with the job files in jobs/demo/ on drawn shelves of seeds 1 and 2,
and travel with the package, so nothing is downloaded. Each demonstration draws shelves that they have not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchtag.analysis.query import query
from batchtag.analysis.verify import verify
from batchtag.config.job import JobSpec, make_spec
from batchtag.config.model import CheckpointSpec
from batchtag.demo.scenes import BRANDS, SHAPES, true_inventory, write_crops, write_scenes
from batchtag.evaluation.evaluate import checked_ground_truth, evaluate_model, evaluate_out, open_ground_truth
from batchtag.evaluation.result import headline_text, write_evaluation
from batchtag.runs.driver import run_job

TRAINING_SEEDS = (1, 2)
"""Of the shelves that the models were trained and chosen on."""
PRODUCTS, BRANDS_MODEL = "products", "brands"
_MIN_SCORE = 0.2
"""Boxes below it get no brand. It lies below every threshold of the detector, so whatever counts has one."""

_INVENTORY = """
select box.tag as shape, product.tag as brand, count(*) as num
from confident box join tags product
  on product.uri = box.uri and product.parent = box.model || '#' || box.rank and product.rank = 1
where box.kind = 'object' group by all
"""
_FAILURES = "select parse_filename(uri) as image, stage, code, message from errors order by uri"


def model_folder(name: str) -> str:
    """Where the package keeps a checkpoint of the demonstration: "products" finds shapes, "brands" tells brands."""
    return str(files("batchtag.demo") / "models" / name)


def run_demo(folder: Path, *, num_images: int, seed: int, console: Console, answer: Console) -> None:
    """Draw, tag, verify, count and judge: the story to `console`, the tables to `answer`."""
    out = folder / "tags"
    console.print(
        f"Drawing {num_images} images of shelves (seed {seed}), and 2 broken files, into {folder}/images",
        highlight=False,
        soft_wrap=True,
    )
    write_scenes(folder, num_images=num_images, seed=seed, broken=True)
    write_crops(folder / "crops", num_images=num_images, seed=seed)
    tagged = run_job(_job(folder, out), console=console)
    console.print(tagged.summary(), highlight=False, soft_wrap=True)
    console.print(verify(str(out)).summary(), highlight=False, soft_wrap=True)
    found = Counter({(row["shape"], row["brand"]): row["num"] for row in query(str(out), _INVENTORY).to_pylist()})
    answer.print(_inventory(found, true_inventory(folder)))
    answer.print(_failures(str(out)))
    _judge(folder, out, console=console, answer=answer)
    console.print(_what_next(folder), highlight=False, soft_wrap=True)


def _job(folder: Path, out: Path) -> JobSpec:
    """As jobs/shelves.yaml, with the demonstration's own models."""
    crops = {"crops_of": PRODUCTS, "min_score": _MIN_SCORE}
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [
            {"kind": "checkpoint", "name": PRODUCTS, "uri": model_folder(PRODUCTS)},
            {"kind": "checkpoint", "name": BRANDS_MODEL, "uri": model_folder(BRANDS_MODEL), "on": crops, "max_tags": 1},
        ],
        "output": {"uri": str(out)},
    }
    return make_spec(content, origin="demo")


def _inventory(found: Mapping[tuple[str, str], int], true: Mapping[tuple[str, str], int]) -> Table:
    """Shapes by brands: how many were counted, and, where it differs, how many there are."""
    title = "The inventory: what was counted, and what is there where that differs"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("")
    brands, shapes = [brand.name for brand in BRANDS], [shape.name for shape in SHAPES]
    for name in [*brands, "all"]:
        table.add_column(name, justify="right")
    for shape in shapes:
        cells = [(found.get((shape, brand), 0), true.get((shape, brand), 0)) for brand in brands]
        table.add_row(shape, *(_cell(*cell) for cell in cells), _cell(*_sum(cells)))
    columns = [
        _sum([(found.get((shape, brand), 0), true.get((shape, brand), 0)) for shape in shapes]) for brand in brands
    ]
    table.add_row("all", *(_cell(*cell) for cell in columns), _cell(*_sum(columns)), style="bold")
    return table


def _sum(cells: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(found for found, _ in cells), sum(true for _, true in cells)


def _cell(found: int, true: int) -> Text:
    return Text(f"{found}") if found == true else Text(f"{found}/{true}", style="yellow")


def _failures(out: str) -> Table:
    result = query(out, _FAILURES)
    table = Table(
        title="What could not be tagged", title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for name in result.column_names:
        table.add_column(name)
    for row in result.to_pylist():
        table.add_row(*(str(value) for value in row.values()))
    return table


def _judge(folder: Path, out: Path, *, console: Console, answer: Console) -> None:
    """Both models against the truth: the detector by the tables just written, the classifier on the true crops."""
    ground_truth = str(folder / "instances.json")
    products = evaluate_out(str(out), open_ground_truth(ground_truth), data=ground_truth, model=PRODUCTS)
    crops = checked_ground_truth(open_ground_truth(str(folder / "crops")), told=_unheard)
    brands = evaluate_model(
        CheckpointSpec(uri=model_folder(BRANDS_MODEL)), crops, data=str(folder / "crops"), told=_unheard
    )
    for name, found in ((PRODUCTS, products), (BRANDS_MODEL, brands)):
        _, page = write_evaluation(found, str(folder / "report" / name))
        answer.print(f"{name}: {headline_text(found.score)}", highlight=False)
        console.print(f"  with all figures and the worst mistakes: {page}", highlight=False, soft_wrap=True)


def _unheard(_: str) -> None:
    """A few seconds need no progress."""


def _what_next(folder: Path) -> str:
    return (
        "[bold]Now yours[/bold]\n"
        "  batchtag run ./photos --out ./tags                    published weights, fetched once\n"
        f'  batchtag query {folder}/tags "select tag, count(*) from confident group by all"\n'
        "  batchtag train my-job.yaml                            your own classes: see jobs/train-cells.yaml"
    )

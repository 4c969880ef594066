"""The verb `demo`: draw new shelves, tag them in a whole run, verify it, and compare the results with the ground truth.

The two models were trained by `batchtag train` with the job files in jobs/demo/, on drawn shelves of seeds 1 and 2.
They are part of the package, so nothing is downloaded. Each demonstration draws shelves that the models have not seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from batchtag.analysis.query import query
from batchtag.analysis.verify import verify
from batchtag.config.job import JobSpec, make_spec
from batchtag.config.model import CheckpointSpec
from batchtag.decoding.decoder import DecodeRules, decode
from batchtag.demo.drawing import FoundProduct, Pixels, choose_images, draw_products, encode_png, join_side_by_side
from batchtag.demo.scenes import BRANDS, SHAPES, read_true_inventory, write_crops, write_scenes
from batchtag.demo.tables import failures_table, inventory_table
from batchtag.evaluation.evaluate import evaluate_model, evaluate_out
from batchtag.evaluation.ground_truth import check_ground_truth, open_ground_truth
from batchtag.evaluation.result import headline_text, write_evaluation
from batchtag.runs.driver import run_job
from batchtag.types import DecodedImage

TRAINING_SEEDS = (1, 2)
"""Seeds of the shelves that the models were trained and selected on."""
PRODUCTS, BRANDS_MODEL = "products", "brands"
DRAWING = "shelves.png"
_MIN_SCORE = 0.2
"""Lowest score of a box whose brand is classified. It is below every threshold of the detector, so every box of the
inventory has a brand."""
_DRAWING_WIDTH_PX = 1600
_DRAWING_MAX_BYTES = 290_000

_PRODUCTS_SQL = """
select box.uri, parse_filename(box.uri) as image, box.tag as shape, product.tag as brand, box.score,
       box.x_min, box.y_min, box.x_max, box.y_max, images.width, images.height
from confident box join images on images.uri = box.uri left join tags product
  on product.uri = box.uri and product.parent = box.model || '#' || box.rank and product.rank = 1
where box.kind = 'object' order by images.position, box.rank
"""
_FAILURES_SQL = "select parse_filename(uri) as image, stage, code, message from errors order by uri"


def model_folder(name: str) -> str:
    """Return the folder of a checkpoint in the package: "products" detects shapes, "brands" classifies brands."""
    return str(files("batchtag.demo") / "models" / name)


def run_demo(folder: Path, *, num_images: int, seed: int, console: Console, answer: Console) -> None:
    """Draw, tag, verify, count and evaluate. What happens is printed to `console`, the tables to `answer`."""

    def report(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    out = folder / "tags"
    report(f"Drawing {num_images} images of shelves (seed {seed}), and 2 broken files, into {folder}/images")
    write_scenes(folder, num_images=num_images, seed=seed, broken=True)
    write_crops(folder / "crops", num_images=num_images, seed=seed)
    report(run_job(_make_job(folder, out), console=console).summary())
    report(verify(str(out)).summary())
    rows = query(str(out), _PRODUCTS_SQL).to_pylist()
    found = Counter((row["shape"], row["brand"]) for row in rows)
    shapes, brands = [shape.name for shape in SHAPES], [brand.name for brand in BRANDS]
    answer.print(inventory_table(found, read_true_inventory(folder), shapes=shapes, brands=brands))
    answer.print(failures_table(query(str(out), _FAILURES_SQL).to_pylist()))
    _evaluate_models(folder, out, console=console, answer=answer)
    drawing = _write_drawing(folder, rows, shapes=shapes)
    if drawing is not None:
        report(f"Two of the images with the found products drawn on them: {drawing}")
    report(_next_steps(folder))


def _make_job(folder: Path, out: Path) -> JobSpec:
    """Make the job of jobs/shelves.yaml with the demonstration's own models."""
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


def _evaluate_models(folder: Path, out: Path, *, console: Console, answer: Console) -> None:
    """Evaluate both models: the detector by the tables just written, the classifier on the true crops."""
    ground_truth = str(folder / "instances.json")
    products = evaluate_out(str(out), open_ground_truth(ground_truth), data=ground_truth, model=PRODUCTS)
    crops = check_ground_truth(open_ground_truth(str(folder / "crops")), on_progress=_ignore_progress)
    brands = evaluate_model(
        CheckpointSpec(uri=model_folder(BRANDS_MODEL)), crops, data=str(folder / "crops"), on_progress=_ignore_progress
    )
    for name, evaluation in ((PRODUCTS, products), (BRANDS_MODEL, brands)):
        _, page = write_evaluation(evaluation, str(folder / "report" / name))
        answer.print(f"{name}: {headline_text(evaluation.score)}", highlight=False)
        console.print(f"  all metrics and the worst mistakes: {page}", highlight=False, soft_wrap=True)


def _ignore_progress(_: str) -> None:
    """Show nothing: the evaluation takes a few seconds."""


def _write_drawing(folder: Path, rows: Sequence[Mapping[str, Any]], *, shapes: Sequence[str]) -> Path | None:
    """Draw the products on two images and write `folder`/shelves.png. Returns its path; None if nothing was found."""
    products: dict[str, list[FoundProduct]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    for row in rows:
        sizes[row["image"]] = (row["width"], row["height"])
        products[row["image"]].append(
            FoundProduct(
                box_xyxy=(row["x_min"], row["y_min"], row["x_max"], row["y_max"]),
                tag=row["shape"],
                score=row["score"],
                brand=row["brand"] or "",
            )
        )
    names = choose_images(products, sizes=sizes)
    if not names:
        return None
    width = _DRAWING_WIDTH_PX // 2 - 10  # the gap between the images is below 20 px
    images = [
        draw_products(_read_pixels(folder / "images" / name), products[name], tags=shapes, width=width)
        for name in names
    ]
    path = folder / DRAWING
    path.write_bytes(encode_png(join_side_by_side(images), max_bytes=_DRAWING_MAX_BYTES))
    return path


def _read_pixels(path: Path) -> Pixels:
    """Read an image as it is displayed, (H, W, 3) uint8 RGB."""
    decoded = decode(path.read_bytes(), rules=DecodeRules())
    assert isinstance(decoded, DecodedImage), "the run has decoded this image"
    return decoded.pixels


def _next_steps(folder: Path) -> str:
    return (
        "[bold]Next, with your own images[/bold]\n"
        "  batchtag run ./photos --out ./tags                    published weights, downloaded once\n"
        f'  batchtag query {folder}/tags "select tag, count(*) from confident group by all"\n'
        "  batchtag train my-job.yaml                            your own classes: see jobs/train-cells.yaml"
    )

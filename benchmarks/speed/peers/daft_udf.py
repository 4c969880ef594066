"""Daft, as documented: download -> decode_image -> a class with a batch method -> explode -> write_parquet.

`into_batches` is Daft's advice for images: by default a stage hands on 131,072 rows at once, which is the whole bucket
in memory before the model gets the first image. Downloading and decoding run in Daft's own threads beside the model.
"""

from __future__ import annotations

from typing import Any

import daft
import torch
from daft import DataType
from daft.functions import decode_image, download
from daft.io import IOConfig, S3Config

from benchmarks.speed.peer_models import PeerTagger, preprocess
from benchmarks.speed.peers.task import Task, read_task_argument
from benchmarks.speed.s3server import REGION

_TAG = DataType.struct(
    {
        "tag": DataType.string(),
        "score": DataType.float32(),
        "kind": DataType.string(),
        "label_id": DataType.int32(),
        "rank": DataType.int32(),
        **{name: DataType.float32() for name in ("x_min", "y_min", "x_max", "y_max")},
    }
)


def make_tagger(task: Task) -> Any:
    """Make the class with the task's settings in its decorators, and return an instance of it."""

    @daft.cls(max_concurrency=task.settings.workers, use_process=False)
    class Tagger:
        def __init__(self) -> None:
            self._tagger = PeerTagger(task.models, threads=task.settings.threads)
            task.report_ready()

        # mypy knows Daft only where it is installed in the same environment.
        @daft.method.batch(return_dtype=DataType.list(_TAG), batch_size=task.settings.batch_size)  # type: ignore[untyped-decorator]
        def tag(self, uris: daft.Series, images: daft.Series) -> list[list[dict[str, Any]]]:
            names = uris.to_pylist()
            pixels = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images.to_pylist()]
            inputs = [[preprocess(model, image) for image in pixels] for model in self._tagger.models]
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for row in self._tagger.tag(names, inputs).to_pylist():
                rows[row.pop("uri")].append(row)
            return list(rows.values())

    return Tagger()


def main() -> None:
    """Tag the images of the task."""
    task = read_task_argument()
    daft.set_runner_native()
    s3 = S3Config(endpoint_url=task.endpoint_url, region_name=REGION, use_ssl=False)
    images = daft.from_pydict({"uri": task.uris}).into_batches(4 * max(4, task.settings.batch_size))
    data = download(daft.col("uri"), max_connections=32, io_config=IOConfig(s3=s3))
    images = images.with_column("image", decode_image(data, mode="RGB"))
    tags = images.select("uri", make_tagger(task).tag(daft.col("uri"), daft.col("image")).alias("tags"))
    # An image without tags is a null row after `explode`.
    rows = tags.explode("tags").where(daft.col("tags").not_null()).select("uri", daft.col("tags").unnest())
    rows.write_parquet(task.out)
    task.report_done()


if __name__ == "__main__":
    main()

"""torchvision's `model(list_of_images)` as everybody calls it: a loop over lists of decoded images, one process.

torchvision pads a list to its largest member, so an image's boxes depend a little on its neighbours; how far that goes
is in the table's column of agreement.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.looking import Looker
from benchmarks.speed.peers.plain import Images, collate
from benchmarks.speed.peers.task import given


def main() -> None:
    task = given()
    looker = Looker(task.models, threads=task.settings.threads)
    task.say_ready()
    images = Images(task, looker.models)
    tables = []
    for start in range(0, len(images), task.settings.batch_size):
        stop = min(start + task.settings.batch_size, len(images))
        tables.append(looker.look(*collate([images[i] for i in range(start, stop)])))
    Path(task.out).mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), Path(task.out) / "tags.parquet")
    task.say_done()


if __name__ == "__main__":
    main()

"""torchvision's `model(list_of_images)`, as it is usually called: a loop over lists of decoded images, one process.

torchvision pads a list to its largest member, so the boxes of an image depend a little on the other images of its list.
How much, the column of agreement in the table shows.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.peer_models import PeerTagger
from benchmarks.speed.peers.plain import Images, collate
from benchmarks.speed.peers.task import read_task_argument


def main() -> None:
    """Tag the images of the task."""
    task = read_task_argument()
    tagger = PeerTagger(task.models, threads=task.settings.threads)
    task.report_ready()
    images = Images(task, tagger.models)
    tables = []
    for start in range(0, len(images), task.settings.batch_size):
        stop = min(start + task.settings.batch_size, len(images))
        tables.append(tagger.tag(*collate([images[i] for i in range(start, stop)])))
    Path(task.out).mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), Path(task.out) / "tags.parquet")
    task.report_done()


if __name__ == "__main__":
    main()

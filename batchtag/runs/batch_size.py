"""The batch size: how many images a worker hands to its models at once, on a GPU and on CPUs."""

from __future__ import annotations

from batchtag.config.job import ComputeSpec

GPU_BATCH_SIZE, CPU_BATCH_SIZE = 64, 16
"""Images in a batch unless `compute.batch_size` says otherwise. Large images make smaller batches
(`pipeline.loader.BATCH_BYTES`), and a model may split a batch (`Detector`, `Classifier`)."""


def choose_batch_size(compute: ComputeSpec, *, is_on_gpu: bool) -> int:
    """Return the images in a batch: what the job says, else the default for the device."""
    if compute.batch_size != "auto":
        return compute.batch_size
    return GPU_BATCH_SIZE if is_on_gpu else CPU_BATCH_SIZE

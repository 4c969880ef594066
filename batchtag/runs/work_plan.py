"""The plan that workers get: the models of a job, fetched and checked, and everything else that a worker must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchtag import models
from batchtag.config.job import JobSpec
from batchtag.config.model import CropsOf
from batchtag.config.source import ManifestSource
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import UsageError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.pipeline.loader import LoadPlan
from batchtag.pipeline.tagger import decoder_resolutions
from batchtag.pipeline.worker import WorkPlan
from batchtag.runs.placement import Placement
from batchtag.types import ModelInfo


def prepare_models(job: JobSpec) -> tuple[ModelInfo, ...]:
    """Fetch and check the weights of every model of the job; return the facts of each. Runs on the driver.

    Raises ModelError or UsageError.
    """
    model_infos = []
    for spec in job.models:
        info = models.prepare(spec)
        if isinstance(spec.on, CropsOf):
            info = replace(info, crops_of=spec.on.crops_of, crops_min_score=spec.on.min_score)
        model_infos.append(info)
    by_name = {info.name: info for info in model_infos}
    for i, info in enumerate(model_infos):
        if info.crops_of and by_name[info.crops_of].kind != "object":
            raise UsageError(f"models[{i}].on.crops_of is {info.crops_of!r}, which finds no boxes; name a detector")
    return tuple(model_infos)


def make_work_plan(job: JobSpec, *, run_id: str, model_infos: Sequence[ModelInfo], placement: Placement) -> WorkPlan:
    """Return what each worker of this run must know."""
    rules = DecodeRules(
        formats=frozenset(job.decode.formats),
        max_pixels=job.decode.max_pixels,
        max_bytes=job.decode.max_bytes,
        scaled=job.decode.scaled,
        depth=job.decode.depth,
    )
    load = LoadPlan(
        rules=rules,
        resolutions=decoder_resolutions(model_infos),
        decode_timeout_s=job.decode.timeout_s,
        fetches=job.compute.fetches,
        decode_threads=placement.decode_threads,
        batch_size=placement.batch_size,
    )
    runtime = Runtime(
        device=placement.device,
        engine=placement.engine,
        precision=placement.precision,
        threads=placement.compute_threads,
    )
    return WorkPlan(
        run_id=run_id,
        out=job.output.uri,
        out_options=job.output.storage_options,
        source_options=job.source.storage_options,
        source=job.source.uri if isinstance(job.source, ManifestSource) else job.source.uris[0],
        models=tuple(job.models),
        model_infos=tuple(model_infos),
        load=load,
        decode=job.compute.decode,
        runtime=runtime,
    )

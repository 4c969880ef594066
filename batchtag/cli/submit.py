"""`batchtag submit`: send a job to a Ray cluster, or print what would be sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchtag.cli.options import CLUSTER, AsJson, ClusterAddress, Insecure
from batchtag.cli.output import print_json, print_line, print_message, print_note
from batchtag.errors import ModelError, RunFailed, UsageError

if TYPE_CHECKING:
    from batchtag.cluster.address import Cluster
    from batchtag.cluster.submission import Submission
    from batchtag.config.job import JobSpec

_PRESENT_NODES_NOTE = "; on the nodes present now: compute.may_grow_to names what an autoscaler may add"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("submit", rich_help_panel=CLUSTER)(submit)


def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file (.yaml).")],
    out: Annotated[
        str, typer.Option(metavar="URI", help="Where the tables go, in place of the job's output.uri.")
    ] = "",
    address: ClusterAddress = "",
    is_insecure: Insecure = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole request; send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a job to a Ray cluster and print the run's id. While the run is active, the same job gives the same id."""
    from batchtag.cluster.address import resolve_cluster
    from batchtag.cluster.submission import make_submission
    from batchtag.config.job import make_spec
    from batchtag.config.loader import read_job_file, set_value

    content = read_job_file(Path(job))
    set_value(content, ["output", "uri"], out)
    spec = make_spec(content, origin=job)
    submission = make_submission(spec, name=Path(job).stem)
    cluster = resolve_cluster(address or spec.compute.address, is_insecure=is_insecure)
    for warning in submission.warnings:
        print_message(warning)
    if dry_run:
        placement = _describe_placement(cluster, spec)
        print_json({"address": cluster.address, "placement": placement, **_describe_request(submission)})
        return
    _send(cluster, submission, as_json=as_json)


def _send(cluster: Cluster, submission: Submission, *, as_json: bool) -> None:
    from batchtag.cluster.history import SubmissionNote, store_note
    from batchtag.cluster.jobs import ClusterJobs

    jobs = ClusterJobs(cluster)
    version_here, version_there = jobs.versions()
    if version_here != version_there:
        print_message(
            f"Ray is {version_here} here and {version_there} on the cluster; a job may behave differently there"
        )
    run, is_new = jobs.submit(submission)
    store_note(
        SubmissionNote(run_id=run.run_id, address=cluster.address, out=run.out, name=run.name, options=run.options)
    )
    if not is_new:
        print_note(f"a run of this job is active already; `batchtag status {run.run_id} --watch` follows it")
    if as_json:
        print_json({"run_id": run.run_id, "out": run.out, "new": is_new, "address": cluster.address})
    else:
        print_line(run.run_id)


def _describe_placement(cluster: Cluster, spec: JobSpec) -> str:
    """Return how the run would be placed on the nodes of the cluster, or why that is not known.

    Raises UsageError if `may_grow_to` names all machines that may be added, and the run fits on none of them.
    """
    from batchtag import models
    from batchtag.cluster.jobs import ClusterJobs
    from batchtag.cluster.machines import list_missing_machines
    from batchtag.runs.placement import Workload, place_run

    note = "" if spec.compute.may_grow_to else _PRESENT_NODES_NOTE
    try:
        present = ClusterJobs(cluster).list_machines()
    except RunFailed as error:
        return f"not known: {error.message}"
    try:
        infos = [models.describe(model) for model in spec.models]
    except ModelError as error:  # the cluster may have a model that this machine does not have
        infos, note = [], f"{note}; calculated as if models were light: {error.message}"
    try:
        may_come = list_missing_machines(spec.compute.may_grow_to, present=present)
        return place_run(spec.compute, present, Workload(model_infos=infos), may_come=may_come).reason + note
    except UsageError as error:
        if spec.compute.may_grow_to:
            raise
        return f"none: {error.message}{note}"


def _describe_request(submission: Submission) -> dict[str, Any]:
    from batchtag.cluster.submission import JOB_FILE

    return {
        "submission_id": submission.run_id,
        "entrypoint": submission.entrypoint,
        "runtime_env": submission.runtime_env,
        "metadata": submission.metadata,
        JOB_FILE: submission.job,
    }

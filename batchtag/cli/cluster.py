"""`batchtag list`, `status`, `logs`, `wait`, `cancel`: the runs of a Ray cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchtag.cli import watch
from batchtag.cli.options import CLUSTER, AsJson, ClusterAddress, Insecure, Quiet, RunOrOut, SubmittedRun
from batchtag.cli.output import Column, print_json, print_line, print_message, print_note, print_table
from batchtag.cli.watch import RunWatcher, connect_jobs, read_run_status, submission_id_of
from batchtag.errors import RunFailed

if TYPE_CHECKING:
    from batchtag.runs.status import RunStatus

CANCEL_PATIENCE_S = 60
"""Seconds to wait for a cancelled run, beyond the time that Ray gives its driver to end."""
_COLUMNS = (
    Column(heading="run"),
    Column(heading="name", folds=True),
    Column(heading="state"),
    Column(heading="images", is_number=True),
    Column(heading="images/s", is_number=True),
    Column(heading="failed", is_number=True),
    Column(heading="started (UTC)"),
    Column(heading="output", folds=True),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("list", rich_help_panel=CLUSTER)(list_runs)
    app.command("status", rich_help_panel=CLUSTER)(show_status)
    app.command("logs", rich_help_panel=CLUSTER)(show_logs)
    app.command("wait", rich_help_panel=CLUSTER)(wait_for_run)
    app.command("cancel", rich_help_panel=CLUSTER)(cancel_run)


def list_runs(address: ClusterAddress = "", is_insecure: Insecure = False, as_json: AsJson = False) -> None:
    """List the runs of a cluster with state, progress, failures and output."""
    from batchtag.cluster.address import resolve_cluster
    from batchtag.cluster.jobs import ClusterJobs

    jobs = ClusterJobs(resolve_cluster(address, is_insecure=is_insecure)).list_jobs()
    statuses = [read_run_status(job.run_id, job.out, job) for job in jobs]
    if as_json:
        print_json([_to_plain(status) for status in statuses])
    elif statuses:
        print_table(_COLUMNS, [_cells(status) for status in statuses])
    else:
        print_line("no runs")


def _cells(status: RunStatus) -> list[str]:
    """Return the row of a run in the table."""
    progress = status.progress
    if status.record:
        images = f"{progress.done:,} of {progress.total:,}"
    else:
        images = "cannot be read" if status.read_error else ""
    return [
        status.run_id,
        status.name,
        status.state.replace("_", " "),
        images,
        f"{progress.images_per_s:,.1f}" if status.record else "",
        f"{status.record.get('num_failed', 0):,}",
        status.started[:16],
        status.out,
    ]


def _to_plain(status: RunStatus) -> dict[str, Any]:
    return {**asdict(status), "is_over": status.is_over, "exit_code": status.exit_code if status.is_over else None}


def show_status(
    run: RunOrOut,
    does_watch: Annotated[bool, typer.Option("--watch", "-w", help="Show the progress until the run is over.")] = False,
    address: ClusterAddress = "",
    is_insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Show the status of a run from its record in OUT; works without the cluster too."""
    watcher = RunWatcher(run, address, is_insecure=is_insecure)
    status = watcher.wait_until_over() if does_watch else watcher.read_status()
    if as_json:
        print_json(_to_plain(status))
        return
    for line in _summary_lines(status):
        print_line(line)


def wait_for_run(
    run: RunOrOut, address: ClusterAddress = "", is_insecure: Insecure = False, quiet: Quiet = False
) -> None:
    """Wait until a run is over, and exit with its exit code."""
    status = RunWatcher(run, address, is_insecure=is_insecure).wait_until_over(quiet=quiet)
    for line in _summary_lines(status):
        print_note(line)
    sys.exit(status.exit_code)


def _summary_lines(status: RunStatus) -> list[str]:
    """Return one line, and for a driver that died the end of its log below it."""
    return [status.summary_line(), *(f"  {line}" for line in status.last_log_lines)]


def show_logs(
    run: SubmittedRun,
    does_follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run is over.")] = False,
    address: ClusterAddress = "",
    is_insecure: Insecure = False,
) -> None:
    """Print the log of a run's driver."""
    jobs, run = connect_jobs(run, address, is_insecure=is_insecure), submission_id_of(run)
    num_shown, last_answer, last_problem = 0, time.monotonic(), ""
    while True:
        try:
            is_last = jobs.get_job(run).is_over or not does_follow
            lines = jobs.read_log(run).split("\n")
        except RunFailed as error:
            if not does_follow or time.monotonic() - last_answer > watch.LOST_AFTER_S:
                raise
            if error.message != last_problem:
                last_problem = error.message
                print_message(f"asking again, because {last_problem}")
            time.sleep(watch.POLL_S)
            continue
        last_answer = time.monotonic()
        # The last line of a log that still grows may be incomplete; it is printed with the next answer.
        complete = lines if is_last and lines[-1] else lines[:-1]
        for line in complete[num_shown:]:
            print_line(line)
        if is_last:
            return
        num_shown = len(complete)
        time.sleep(watch.POLL_S)


def cancel_run(run: SubmittedRun, address: ClusterAddress = "", is_insecure: Insecure = False) -> None:
    """End a run. What it committed stays; `submit` again resumes it."""
    from batchtag.cluster.submission import STOP_WAIT_S

    jobs, run = connect_jobs(run, address, is_insecure=is_insecure), submission_id_of(run)
    job = jobs.get_job(run)
    if not job.is_over:
        jobs.stop_job(run)
        stopped_at = time.monotonic()
        while not (job := jobs.get_job(run)).is_over:
            if time.monotonic() - stopped_at > STOP_WAIT_S + CANCEL_PATIENCE_S:
                waited_s = STOP_WAIT_S + CANCEL_PATIENCE_S
                raise RunFailed(f"{run} was asked to end {waited_s} s ago, and is still {job.status}; cancel it again")
            time.sleep(watch.POLL_S)
    print_line(read_run_status(run, job.out, job).summary_line())

"""`batchtag submit`, `list`, `status`, `logs`, `wait`, `cancel`: runs on a Ray cluster."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchtag.console import printable
from batchtag.errors import StorageError, UsageError

if TYPE_CHECKING:
    from batchtag.cluster.address import Cluster
    from batchtag.cluster.jobs import Jobs, RayJob
    from batchtag.cluster.submission import Submission
    from batchtag.config.job import JobSpec
    from batchtag.runs.status import RunStatus

POLL_S = 2.0
LOST_S = 600.0
"""A driver writes its record every five seconds; one that is silent is waited for so much longer."""
SURE_S = 20.0
"""Where the cluster is not heard, a record must say so long that a run failed: a driver may be begun again."""
CANCEL_S = 60
"""Beyond the time that a driver has to end."""
_UNHEARD = ("silent", "unknown")
_NOT_FINAL = ("failed", "interrupted")
_NOW = "; on the nodes that are there now: what an autoscaler may add, compute.may_grow_to tells"
_NUMBERS = ("images", "images/s", "failed")
_WIDE = 300
"""A table that nobody looks at on a terminal is not folded."""
Address = Annotated[
    str,
    typer.Option(help="The cluster: https://host, a tunnel's http://127.0.0.1:8265, ... (default: RAY_ADDRESS)"),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Speak to it without TLS or without a token.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `submit` printed it, or its OUT.")]
Submitted = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `submit` printed it.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (submit, list_runs, status, logs, wait, cancel):
        app.command(command.__name__.removesuffix("_runs"))(command)


def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file (.yaml).")],
    out: Annotated[str, typer.Option(help="Where the tables go, instead of the job's output.uri.")] = "",
    address: Address = "",
    insecure: Insecure = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole request; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send a job to a Ray cluster; print the run's id. The same submission again finds the run that is under way."""
    from batchtag.cluster.address import cluster_at
    from batchtag.cluster.submission import make_submission
    from batchtag.config.job import make_spec
    from batchtag.config.loader import read_job_file, set_value

    content = read_job_file(Path(job))
    set_value(content, ["output", "uri"], out)
    spec = make_spec(content, origin=job)
    submission = make_submission(spec, name=Path(job).stem)
    cluster = cluster_at(address or spec.compute.address, insecure=insecure)
    for warning in submission.warnings:
        typer.echo(f"batchtag: {printable(warning)}", err=True)
    if dry_run:
        told = {"address": cluster.address, "placement": _placement(cluster, spec), **_request(submission)}
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    _send(cluster, submission, as_json=as_json)


def _send(cluster: Cluster, submission: Submission, *, as_json: bool) -> None:
    from batchtag.cluster.history import Note, keep
    from batchtag.cluster.jobs import Jobs

    jobs = Jobs(cluster)
    here, there = jobs.versions()
    if here != there:
        typer.echo(
            f"batchtag: Ray is {here} here and {there} on the cluster; a job may behave otherwise there", err=True
        )
    run, is_new = jobs.submit(submission)
    keep(Note(run_id=run.run_id, address=cluster.address, out=run.out, name=run.name, options=run.options))
    if not is_new:
        typer.echo(f"this job is under way already; `batchtag status {run.run_id} --watch` follows it", err=True)
    if as_json:
        typer.echo(json.dumps({"run_id": run.run_id, "out": run.out, "new": is_new, "address": cluster.address}))
    else:
        typer.echo(run.run_id)


def _placement(cluster: Cluster, spec: JobSpec) -> str:
    """How the run would lie on the nodes that are there and may come, or why that cannot be told.

    Raises UsageError where all that may come is known, and the run fits nowhere.
    """
    from batchtag import models
    from batchtag.cluster.jobs import Jobs
    from batchtag.cluster.machines import still_to_come
    from batchtag.errors import ModelError, RunFailed
    from batchtag.runs.placement import place

    now = "" if spec.compute.may_grow_to else _NOW
    try:
        there = Jobs(cluster).machines()
    except RunFailed as error:
        return f"not known: {error.message}"
    try:
        infos = [models.describe(model) for model in spec.models]
    except ModelError as error:  # the cluster may have what this machine has not
        infos, now = [], f"{now}; as if models were light: {error.message}"
    try:
        to_come = still_to_come(spec.compute.may_grow_to, there=there)
        return place(spec.compute, there, to_come=to_come, infos=infos).reason + now
    except UsageError as error:
        if spec.compute.may_grow_to:
            raise
        return f"none: {error.message}{now}"


def _request(submission: Submission) -> dict[str, Any]:
    from batchtag.cluster.submission import JOB_FILE

    return {
        "submission_id": submission.run_id,
        "entrypoint": submission.entrypoint,
        "runtime_env": submission.runtime_env,
        "metadata": submission.metadata,
        JOB_FILE: submission.job,
    }


def list_runs(address: Address = "", insecure: Insecure = False, as_json: Json = False) -> None:
    """The runs of a cluster: state, images done, rate, failures, start, output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from batchtag.cluster.address import cluster_at
    from batchtag.cluster.jobs import Jobs

    found = [_stand(job.run_id, job.out, job) for job in Jobs(cluster_at(address, insecure=insecure)).all()]
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in found], indent=1, ensure_ascii=False))
        return
    table = Table(box=None)
    for heading in ("run", "name", "state", "images", "images/s", "failed", "started (UTC)", "output"):
        table.add_column(heading, no_wrap=heading == "run", justify="right" if heading in _NUMBERS else "left")
    for one in found:
        figures = one.figures
        done = f"{figures.done:,} of {figures.total:,}" if one.record else "cannot be read" if one.trouble else ""
        cells = [one.run_id, one.name, one.state.replace("_", " "), done]
        cells += [f"{figures.images_per_s:,.1f}" if one.record else "", f"{one.record.get('num_failed', 0):,}"]
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in [*cells, one.started[:16], one.out]))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table if found else "no runs")


def status(
    run: Run,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until it is over, as `run` shows it.")] = False,
    address: Address = "",
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """How a run is doing, from its record in OUT; the cluster need not be within reach."""
    watched = _Watched(run, address, insecure)
    one = watched.until_over() if watch else watched.look()
    typer.echo(json.dumps(_plain(one), indent=1, ensure_ascii=False) if as_json else _lines(one))


def wait(
    run: Run,
    address: Address = "",
    insecure: Insecure = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Wait until a run is over, and end with its exit code."""
    one = _Watched(run, address, insecure).until_over(quiet=quiet)
    typer.echo(_lines(one), err=True)
    sys.exit(one.exit_code)


def _lines(one: RunStatus) -> str:
    """One line, and below it what a driver that died said last."""
    return "\n".join([printable(one.line()), *(f"  {printable(line)}" for line in one.last_lines)])


def logs(
    run: Submitted,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    address: Address = "",
    insecure: Insecure = False,
) -> None:
    """What a run's driver said, from the cluster."""
    from batchtag.errors import RunFailed

    jobs, shown, run = _jobs_of(run, address, insecure), 0, _submission_of(run)
    heard, trouble = time.monotonic(), ""
    while True:
        try:
            is_last = jobs.get(run).is_over or not follow
            lines = jobs.log(run).split("\n")
        except RunFailed as error:
            if not follow or time.monotonic() - heard > LOST_S:
                raise
            if error.message != trouble:
                trouble = error.message
                typer.echo(f"batchtag: asking again, because {printable(trouble)}", err=True)
            time.sleep(POLL_S)
            continue
        heard = time.monotonic()
        whole = lines if is_last and lines[-1] else lines[:-1]
        for line in whole[shown:]:
            typer.echo(printable(line))
        if is_last:
            return
        shown = len(whole)
        time.sleep(POLL_S)


def cancel(run: Submitted, address: Address = "", insecure: Insecure = False) -> None:
    """End a run: it keeps what is committed and gives everything back. `submit` again goes on from there."""
    from batchtag.cluster.submission import STOP_WAIT_S
    from batchtag.errors import RunFailed

    jobs, run = _jobs_of(run, address, insecure), _submission_of(run)
    job = jobs.get(run)
    if not job.is_over:
        jobs.stop(run)
        asked = time.monotonic()
        while not (job := jobs.get(run)).is_over:
            if time.monotonic() - asked > STOP_WAIT_S + CANCEL_S:
                raise RunFailed(f"{run} was told to end {STOP_WAIT_S + CANCEL_S} s ago, and is {job.status} still")
            time.sleep(POLL_S)
    typer.echo(printable(_stand(run, job.out, job).line()))


def _jobs_of(run: str, address: str, insecure: bool) -> Jobs:
    """The runs of the cluster that is asked for, or that this one was sent to."""
    from batchtag.cluster.address import cluster_at
    from batchtag.cluster.history import find
    from batchtag.cluster.jobs import Jobs

    note = find(_submission_of(run))
    return Jobs(cluster_at(address or (note.address if note else ""), insecure=insecure))


def _submission_of(run: str) -> str:
    """The id that was submitted: each driver that was begun for it has the time behind a dot, in records and rows."""
    return re.sub(r"\.\d+$", "", run)


class _Watched:
    """A run that is asked after again and again: of the cluster where it answers, else of its record in OUT."""

    def __init__(self, run: str, address: str, insecure: bool) -> None:
        from batchtag.cluster.history import find
        from batchtag.storage import scheme_of

        self._is_out = "/" in run or scheme_of(run) != "file" or Path(run).is_dir()
        self._run = run if self._is_out else _submission_of(run)
        self._asked = address, insecure
        note = None if self._is_out else find(self._run)
        self._out, self._name, self._options = (note.out, note.name, note.options) if note else ("", "", {})
        self._since = 0.0
        self._jobs: Jobs | None = None
        self._trouble = ""
        self._is_heard = False  # the cluster, when it was looked at last
        self._seen: RunStatus | None = None

    def look(self) -> RunStatus:
        """How it is doing now. Raises what the cluster answered if there is nowhere else to look."""
        from dataclasses import replace

        from batchtag.errors import RunFailed

        if self._is_out:
            return self._newest()
        try:
            self._jobs = self._jobs or _jobs_of(self._run, *self._asked)
            job = self._jobs.get(self._run)
        except (RunFailed, UsageError) as error:
            if not self._out:
                raise
            self._jobs, self._is_heard = None, False
            if error.message != self._trouble:
                self._trouble = error.message
                typer.echo(f"batchtag: by its record alone, because {printable(error.message)}", err=True)
            one = _stand(self._run, self._out, None, since=self._since, options=self._options)
            return replace(one, name=self._name)
        self._is_heard, self._out, self._name, self._since = True, job.out, job.name, job.started
        self._options = job.options
        one = _stand(self._run, job.out, job)
        return one if one.state != "died" else _with_reason(one, self._jobs.last_lines(self._run))

    def _newest(self) -> RunStatus:
        """The last run of OUT. Once it was seen, a store that does not answer is waited for."""
        from dataclasses import replace

        try:
            self._seen = _newest(self._run)
        except StorageError as error:
            if self._seen is None:
                raise
            return replace(self._seen, state="unknown", record={}, trouble=error.message)
        return self._seen

    def until_over(self, *, quiet: bool = False) -> RunStatus:
        """Shown on stderr meanwhile. Raises RunFailed when nothing has been heard of it for LOST_S.

        A record that is written again is a sign of life, however old it looks: this machine's clock may be ahead.
        """
        from rich.console import Console

        from batchtag.errors import RunFailed
        from batchtag.runs.progress import Progress, RunProgress

        heard = alive = time.monotonic()
        written = ""
        with Progress(Console(stderr=True), quiet=quiet) as progress:
            while True:
                one, now = self.look(), time.monotonic()
                alive = alive if one.is_over else now
                if one.is_over and (self._is_heard or one.state not in _NOT_FINAL or now - alive > SURE_S):
                    return one
                before, written = written, one.record.get("updated_at", written)
                heard = heard if one.state in _UNHEARD and written == before else now
                if now - heard > LOST_S:
                    raise RunFailed(f"nothing has been heard of {self._run} for {LOST_S:.0f} s. {one.line()}")
                phase = f"{one.state}{one.unread}" if one.state != "running" or not one.record else ""
                progress.show(RunProgress(phase=phase) if phase else one.figures)
                time.sleep(POLL_S)


def _with_reason(one: RunStatus, lines: list[str]) -> RunStatus:
    from dataclasses import replace

    ours = [line.removeprefix("batchtag: ") for line in lines if line.startswith("batchtag: ")]
    return replace(one, message=ours[-1] if ours else one.message, last_lines=tuple(lines))


def _newest(out: str) -> RunStatus:
    from batchtag.output.layout import Layout
    from batchtag.runs.status import newest_run
    from batchtag.storage import absolute_uri, open_store

    out = absolute_uri(out).rstrip("/")
    run_id = newest_run(store=open_store(out), layout=Layout(out))
    if not run_id:
        raise UsageError(f"{out} holds no run")
    return _stand(run_id, out, None)


def _stand(
    run_id: str, out: str, job: RayJob | None, *, since: float = 0.0, options: dict[str, Any] | None = None
) -> RunStatus:
    from batchtag.runs.status import run_status
    from batchtag.storage import open_store

    try:
        store = open_store(out, job.options if job else options)
    except StorageError as error:
        return run_status(run_id, out=out, store=None, job=job, since=since, trouble=error.message)
    return run_status(run_id, out=out, store=store, job=job, since=since)


def _plain(one: RunStatus) -> dict[str, Any]:
    return {**asdict(one), "is_over": one.is_over, "exit_code": one.exit_code if one.is_over else None}

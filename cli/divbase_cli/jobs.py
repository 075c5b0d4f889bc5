"""Commands about jobs, and what `query run` shares with them. It knows the client and the output, no scheduler."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_jobs
from divbase_cli.failure import CommandFailed, ExitCode
from divbase_cli.files import print_downloads
from divbase_cli.keeping import how_kept, kept, mark, warn
from divbase_cli.output import seconds, size
from divbase_cli.progress import JobView, summary, transfer_bars
from divbase_cli.quantities import parse_memory, parse_minutes, shown_memory, shown_minutes
from divbase_cli.session import Session
from divbase_cli.standing import short_wait, standing

if TYPE_CHECKING:
    from divbase_client.models import Job, JobDetail

app = group("jobs", "Jobs: what becomes of a query.")

_TAIL_LINES = 5

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.", autocompletion=complete_jobs)]
StateName = Literal[
    "ACCEPTED",
    "SUBMITTING",
    "SUBMIT_UNKNOWN",
    "QUEUED",
    "RUNNING",
    "SPREAD",
    "FINALIZING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "LOST",
]


@command(app, "ls", example=["divbase jobs ls --mine", "divbase jobs ls --state RUNNING"])
def ls(
    session: Session,
    state: Annotated[StateName | None, typer.Option(help="Only jobs in this state.", case_sensitive=False)] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own.")] = False,
    kind: Annotated[
        Literal["query", "shard", "index", "repair", "sidecar"] | None,
        typer.Option(help="Only jobs of this kind; shards are not listed without."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 50,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from divbase_client.models import JobState

    jobs = session.client.jobs.list(session.project, state=JobState(state) if state else None, mine=mine, kind=kind)
    found, now = list(islice(jobs, limit or None)), datetime.now(UTC)
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
        return
    session.output.table(
        ["JOB", "KIND", "NAME", "STATE", "BY", "CREATED", "ENDED", "RESULT", "REASON"],
        [
            (
                one.id,
                one.kind,
                one.name,
                one.state,
                one.created_by,
                one.created_at,
                one.ended_at,
                mark(one, now),
                one.reason or (short_wait(one) if one.waiting else None),
            )
            for one in found
        ],
    )


def print_job(session: Session, job: JobDetail, *, hint: str | None = None) -> None:
    """Everything about one job that a person asks for."""
    if session.output.as_json:
        session.output.json(job.model_dump(mode="json"))
        return
    slurm = " ".join(word for word in (job.slurm_job_id, job.slurm_state, job.slurm_reason) if word)
    session.output.facts(
        [
            ("Job", job.id),
            ("Name", job.name),
            ("State", summary(job)),
            ("By", job.created_by),
            ("Created", job.created_at),
            ("Started", job.started_at),
            ("Ended", job.ended_at),
            ("Expected run", seconds(job.plan.expected_s) if job.plan and job.plan.expected_s else None),
            *standing(job, datetime.now(UTC)),
            ("Attempt", job.attempt),
            ("Scheduler", slurm),
            ("Reads", f"{size(job.plan.bytes_needed)} of {size(job.plan.bytes_total)}" if job.plan else None),
            *([("Result kept", kept(job))] if kept(job) else []),
        ]
    )
    warn(session, job)
    if job.results:
        session.output.text("")
        session.output.table(
            ["RESULT", "SIZE", "KEY", "SHA-256"],
            [(one.role, size(one.size), one.key, one.sha256) for one in job.results],
        )
    if hint:
        session.output.note(hint)


def _print_attempts(session: Session, job: JobDetail) -> None:
    if not job.attempts or session.output.as_json:
        return
    session.output.text("")
    session.output.table(
        ["ATTEMPT", "SLURM JOB", "STATE", "EXIT", "NODE", "ASKED", "ELAPSED", "CPU", "MEMORY", "OUTCOME"],
        [
            (
                one.number,
                one.slurm_job_id,
                one.slurm_state,
                one.exit_code,
                one.node,
                f"{shown_memory(one.memory_mb)} {shown_minutes(one.minutes)}",
                seconds(one.elapsed_s),
                seconds(one.cpu_s),
                size(one.max_rss_bytes),
                one.outcome,
            )
            for one in job.attempts
        ],
    )


def _print_shards(session: Session, job: JobDetail) -> None:
    if not job.shards or session.output.as_json:
        return
    session.output.text("")
    session.output.table(
        ["SHARD", "STATE", "SLURM JOB", "NODE", "ELAPSED", "ATTEMPT", "REGIONS", "REASON"],
        [
            (
                one.job,
                one.state,
                " ".join(word for word in (one.slurm_job_id, one.slurm_state) if word),
                one.node,
                seconds(one.elapsed_s),
                one.attempt,
                one.name.partition(": ")[2],
                one.message or one.stuck or one.waiting,
            )
            for one in job.shards
        ],
    )


@command(app, "show", example="divbase jobs show JOB")
def show(session: Session, job: JobId) -> None:
    """Show one job: where it stands or what it used, its attempts and its result."""
    detail = session.client.jobs.get(session.project, job)
    print_job(session, detail)
    _print_attempts(session, detail)
    _print_shards(session, detail)
    _print_tail(session, detail)


def _print_tail(session: Session, job: JobDetail) -> None:
    """The last lines of what a running job has said."""
    if session.output.as_json or job.started_at is None or job.state.is_end:
        return
    lines = session.client.jobs.log(session.project, job.id).text.splitlines()[-_TAIL_LINES:]
    if lines:
        session.output.text("")
        session.output.text("Log so far:")
        session.output.block("\n".join(lines))


def follow(session: Session, job: str) -> JobDetail:
    """Show a job's state until it ends."""
    session.interrupted = f"The job goes on. Come back with: divbase jobs watch {job} -p {session.project}"
    with JobView(session.output, job) as view:
        return session.client.jobs.wait(session.project, job, on_look=view.show)


def fail_unless_succeeded(session: Session, job: JobDetail) -> None:
    """Raise CommandFailed, after printing the job for machine readers, when it ended in any other way."""
    from divbase_client.models import JobState

    if job.state is not JobState.SUCCEEDED and session.output.as_json:
        session.output.json(job.model_dump(mode="json"))
    check_success(job)


def check_success(job: JobDetail) -> None:
    """Raise CommandFailed when the job ended in any other way."""
    from divbase_client.models import JobState

    if job.state is not JobState.SUCCEEDED:
        hint = f"Look at its log: divbase jobs logs {job.id}"
        raise CommandFailed(f"Job {job.id} {summary(job)}", ExitCode.JOB_FAILED, hint=hint, code="job_failed")


@command(app, "watch", example="divbase jobs watch JOB")
def watch(session: Session, job: JobId) -> None:
    """Follow a job until it ends; the exit code tells how. Ctrl-C stops looking, not the job."""
    ended = follow(session, job)
    fail_unless_succeeded(session, ended)
    print_job(session, ended, hint=f"Fetch the result with: divbase jobs result {job} --download DIR")


@command(app, "logs", example="divbase jobs logs JOB")
def logs(session: Session, job: JobId) -> None:
    """Print the end of a job's output."""
    log = session.client.jobs.log(session.project, job)
    if session.output.as_json:
        session.output.json(log.model_dump(mode="json"))
        return
    session.output.block(log.text)
    if log.complete:
        return
    if session.client.jobs.get(session.project, job).state.is_end:
        session.output.note("(its log is not stored, or not yet; this is what the job last told of it)")
    else:
        session.output.note("(the job has not ended; this is a look at it so far)")


def _print_state(session: Session, job: Job) -> None:
    if session.output.as_json:
        session.output.json(job.model_dump(mode="json"))
    else:
        asked = " (cancel asked for)" if job.cancel_requested and not job.state.is_end else ""
        session.output.text(f"job {job.id}: {job.state}{asked}")


@command(app, "cancel", example="divbase jobs cancel JOB")
def cancel(session: Session, job: JobId) -> None:
    """End a job. One that has ended already stays as it is."""
    _print_state(session, session.client.jobs.cancel(session.project, job))


@command(app, "pin", example="divbase jobs pin JOB")
def pin(session: Session, job: JobId) -> None:
    """Keep a job's result, however long the project keeps others. Pinned again it stays pinned."""
    _print_kept(session, session.client.jobs.pin(session.project, job))


@command(app, "unpin", example="divbase jobs unpin JOB")
def unpin(session: Session, job: JobId) -> None:
    """Keep a job's result only as long as the project keeps others, from now on."""
    _print_kept(session, session.client.jobs.unpin(session.project, job))


def _print_kept(session: Session, job: Job) -> None:
    if session.output.as_json:
        session.output.json(job.model_dump(mode="json"))
    else:
        session.output.text(how_kept(job))


@command(app, "rerun", example=["divbase jobs rerun JOB --more", "divbase jobs rerun JOB --memory 16G --time 4h"])
def rerun(
    session: Session,
    job: JobId,
    memory: Annotated[str | None, typer.Option(help="Memory to ask for, e.g. 8G; as before if left out.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit to ask for, e.g. 2h; as before if left out.")] = None,
    more: Annotated[bool, typer.Option("--more", help="Ask for double of what ran out: memory or time.")] = False,
) -> None:
    """Try a job again, on the same inputs, that ended without success or whose result was removed."""
    memory_mb = None if memory is None else parse_memory(memory, "--memory")
    minutes = None if time is None else parse_minutes(time, "--time")
    again = session.client.jobs.rerun(session.project, job, memory_mb=memory_mb, minutes=minutes, more=more)
    _print_state(session, again)


@command(app, "result", example="divbase jobs result JOB --download results")
def result(
    session: Session,
    job: JobId,
    download: Annotated[Path | None, typer.Option(help="Folder to download into.", file_okay=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of this machine that differ.")] = False,
) -> None:
    """List the files of a job's result, or download them. Either begins the time anew that the project keeps it for."""
    if download is not None:
        fetch_result(session, job, download, force)
    else:
        _list_result(session, job)
    warn(session, session.client.jobs.get(session.project, job))  # now, for this was a use


def _list_result(session: Session, job: str) -> None:
    files = session.client.jobs.result(session.project, job)
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in files])
        return
    session.output.table(
        ["RESULT", "SIZE", "KEY", "SHA-256"],
        [(one.role, size(one.download.size), one.download.key, one.download.sha256) for one in files],
    )


def fetch_result(session: Session, job: str, folder: Path, force: bool) -> None:
    """Download a job's files into `folder` and say what arrived."""
    session.interrupted = f"The job is done. Go on with: divbase jobs result {job} --download {folder}"
    with transfer_bars(session.output) as progress:
        outcomes = list(session.client.jobs.download(session.project, job, folder, force=force, progress=progress))
    print_downloads(session, outcomes)

"""What a project keeps and for how long: its storage in a table, and the commands about the retention of results. It
knows no route and no rule."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_projects
from divbase_cli.failure import UsageError
from divbase_cli.output import local_time, size
from divbase_cli.session import Session
from divbase_cli.standing import bar

if TYPE_CHECKING:
    from divbase_client.models import Job, Retention, Storage

app = group("retention", "How long a project keeps the results of queries.")

MaybeName = Annotated[
    str | None,
    typer.Argument(help="Name of the project; the current one if left out.", autocompletion=complete_projects),
]

_KINDS = (
    ("Files", "files"),
    ("Older versions and deleted files", "older_versions"),
    ("Indexes", "indexes"),
    ("BCF copies", "copies"),
    ("Results", "results"),
    ("Logs and provenance", "records"),
    ("Uploads under way", "open_uploads"),
)


def print_storage(session: Session, storage: Storage) -> None:
    """What takes how much, and how much of the limit that is."""
    sizes = [(label, getattr(storage, name)) for label, name in _KINDS]
    total = storage.total or 1
    rows = [(label, size(count), f"{count / total:.0%}".replace("%", " %")) for label, count in sizes]
    session.output.table(["KEEPS", "SIZE", "SHARE"], [*rows, ("Together", size(storage.total), None)])
    session.output.text("")
    if storage.limit is None:
        session.output.facts([("Limit", "no limit")])
        return
    share = storage.total / storage.limit if storage.limit else 1.0
    left = f"{size(storage.left)} left of {size(storage.limit)}"
    session.output.facts([("Limit", f"{bar(share)}, {left}")])


# --- retention ---------------------------------------------------------------------------------------------------


@command(app, "show", example="divbase projects retention show vole-2024")
def show(session: Session, name: MaybeName = None) -> None:
    """Show how long results are kept after their last use, and what that is going to remove."""
    _print(session, session.client.projects.retention(name or session.project))


@command(
    app,
    "set",
    example=[
        "divbase projects retention set vole-2024 --days 90 --dry-run",
        "divbase projects retention set vole-2024 --days 90 --yes",
        "divbase projects retention set --forever",
    ],
)
def set_(
    session: Session,
    name: MaybeName = None,
    days: Annotated[int | None, typer.Option(help="Days after the last use of a result.", min=1, max=3650)] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep results for ever.")] = False,
    as_site: Annotated[bool, typer.Option("--as-site", help="As the whole site does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed, and when.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Change how long results are kept. Says what that removes and asks; nothing is removed within a week of it."""
    if [days is not None, forever, as_site].count(True) != 1:
        raise UsageError("Say how long: exactly one of --days N, --forever and --as-site.")
    wanted = 0 if forever else days
    project = name or session.project
    planned = session.client.projects.set_retention(project, wanted, dry_run=True)
    if dry_run:
        _print(session, planned)
        session.output.note("Nothing was changed.")
        return
    if planned.first_at is not None and not yes:
        _ask(session, planned)
    _print(session, session.client.projects.set_retention(project, wanted))


def _ask(session: Session, planned: Retention) -> None:
    """Say what would be removed, and go on only where somebody says so."""
    for line in _removes(planned):
        session.output.note(line)
    if session.output.as_json or not sys.stdin.isatty():
        raise UsageError("Nothing was changed.", hint="Say --yes to do it, or --dry-run to see it without.")
    if not typer.confirm("Go on?", err=True):
        raise UsageError("Nothing was changed.")


def _print(session: Session, retention: Retention) -> None:
    if session.output.as_json:
        session.output.json(retention.model_dump(mode="json"))
        return
    whose = "as the whole site" if retention.days is None else "set for the project"
    session.output.facts(
        [
            ("Project", retention.project),
            ("Results are kept", f"{_length(retention.holds_days)} ({whose})"),
            ("Pinned", retention.pinned),
        ]
    )
    for line in _removes(retention):
        session.output.text(line)


def _removes(retention: Retention) -> list[str]:
    """What is going to be removed, in sentences."""
    if retention.first_at is None:
        return ["Nothing is going to be removed."]
    lines = [
        f"{_count(retention.results)} ({size(retention.bytes)}) will be removed, each {_length(retention.holds_days)}, "
        f"but none before {local_time(retention.first_at)}; logs and provenance stay."
    ]
    if retention.soon_results:
        lines.append(
            f"{_count(retention.soon_results)} of them ({size(retention.soon_bytes)}) within a week from now. "
            "`divbase jobs pin JOB` keeps one."
        )
    return lines


def _length(days: int | None) -> str:
    if days is None:
        return "for ever"
    return f"{days} day{'' if days == 1 else 's'} after their last use"


def _count(results: int) -> str:
    return "1 result" if results == 1 else f"{results} results"


# --- of one job --------------------------------------------------------------------------------------------------


def kept(job: Job) -> str | None:
    """How long its result is kept, for a person; None where there is nothing to say."""
    if job.results_removed_at is not None:
        return f"removed on {local_time(job.results_removed_at)}; `divbase jobs rerun {job.id}` makes it again"
    if job.pinned:
        return "for ever (pinned)"
    return None if job.expires_at is None else f"until {local_time(job.expires_at)} at least"


def how_kept(job: Job) -> str:
    """The same as a sentence, which there always is."""
    if job.results_removed_at is not None:
        return f"The result of job {job.id} was {kept(job)}."
    if job.kind != "query" or (job.state.is_end and job.state.value != "SUCCEEDED"):
        return f"Job {job.id} has no result that could be removed."
    if not job.state.is_end and not job.pinned:
        return f"The result of job {job.id} will be kept as long as the project keeps others."
    return f"The result of job {job.id} is kept {kept(job) or 'for ever'}."


def mark(job: Job, now: datetime) -> str | None:
    """The same in a word or two, for a line of a listing; only where it ends soon, or never, or has ended."""
    if job.results_removed_at is not None:
        return "removed"
    if job.pinned:
        return "pinned"
    if job.expires_at is None or not ends_soon(job, now):
        return None
    return f"! until {job.expires_at.astimezone():%Y-%m-%d}"


def ends_soon(job: Job, now: datetime) -> bool:
    """Whether its result is about to be removed."""
    return job.expires_at is not None and job.warn_from is not None and job.warn_from <= now


def warn(session: Session, job: Job) -> None:
    """Say on standard error that the result is about to be removed, where it is."""
    if job.expires_at is None or not ends_soon(job, datetime.now(UTC)):
        return
    session.output.warn(
        f"the result of job {job.id} is to be removed on {local_time(job.expires_at)}; "
        f"`divbase jobs pin {job.id}` keeps it."
    )

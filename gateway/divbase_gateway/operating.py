"""The operator's commands that look at jobs and hold them back: jobs, usage, estimates, audit, drain, resume.

Each reads the settings, asks the services and prints; it must not know rules or adapters.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from divbase_gateway.clock import SystemClock
from divbase_gateway.db import jobs as rows
from divbase_gateway.db import revision
from divbase_gateway.db.models import JobRow
from divbase_gateway.db.session import Database
from divbase_gateway.domain.allocations import Month
from divbase_gateway.domain.audit import Audit, Finding
from divbase_gateway.domain.corrections import FEWEST, learn, memory_used
from divbase_gateway.domain.errors import InvalidRequest, SchedulerUnavailable
from divbase_gateway.domain.jobs import JobState
from divbase_gateway.logs import set_up_logs
from divbase_gateway.ports import Scheduler
from divbase_gateway.services import audit, corrections, drain, storage, usage
from divbase_gateway.settings import Settings, load

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file (TOML); default: $DIVBASE_GATEWAY_CONFIG, else ./divbase.toml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DURATION = re.compile(r"(\d{1,4})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_MONTHS = 120


class Grouping(StrEnum):
    PROJECT = "project"
    USER = "user"


# --- jobs --------------------------------------------------------------------------------------------------------


def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Ended jobs too; default: open ones.")] = False,
    project: Annotated[str | None, typer.Option("--project", help="Only this project's.")] = None,
    state: Annotated[list[JobState] | None, typer.Option("--state", help="Only in this state; repeatable.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's (email address).")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the newest.")] = 100,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List jobs of all projects, newest first: where they are in DivBase and at the scheduler. Asks the database only.

    Example: divbase-gateway jobs --state RUNNING --project pelican
    """
    now = SystemClock().now()
    with _database(load(config).settings) as database, database.read() as session:
        found = rows.list_everywhere(
            session, open_only=not (everything or state), project=project, states=state or (), user=user, limit=limit
        )
        lines = [_job_line(job, now) for job in found]
        held_back = drain.current(session)
    if held_back is not None:
        typer.echo(f"Submission is held back since {held_back.since:%Y-%m-%d %H:%M} UTC: {held_back.reason}", err=True)
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
    elif lines:
        _print_jobs(lines)
    else:
        typer.echo("There are no such jobs." if everything or state or project or user else "There are no open jobs.")


def _job_line(job: JobRow, now: datetime) -> dict[str, object]:
    attempt = next((each for each in job.attempts if each.number == job.attempt), None)
    elapsed_s = attempt.elapsed_s if attempt else None
    if elapsed_s is None and job.started_at is not None:
        elapsed_s = ((job.ended_at or now) - job.started_at).total_seconds()
    return {
        "job": job.public_id,
        "project": job.project.name,
        "user": job.user.email,
        "kind": job.kind,
        "state": job.state,
        "slurm_job_id": attempt.slurm_job_id if attempt else None,
        "slurm_state": attempt.slurm_state if attempt else None,
        "slurm_reason": attempt.slurm_reason if attempt else None,
        "node": attempt.node if attempt else None,
        "age_s": int((now - job.created_at).total_seconds()),
        "elapsed_s": None if elapsed_s is None else int(elapsed_s),
        "limit_s": job.minutes * 60,
        "attempt": job.attempt,
        "message": job.stuck or job.message,
    }


def _print_jobs(lines: Sequence[dict[str, object]]) -> None:
    table = Table("job", "project", "user", "state", "SLURM", "node", "age", "elapsed/limit", "attempt", "message")
    for line in lines:
        at_scheduler = " ".join(str(line[name]) for name in ("slurm_job_id", "slurm_state") if line[name])
        reason = f" ({line['slurm_reason']})" if line["slurm_reason"] not in (None, "None") else ""
        elapsed = "-" if line["elapsed_s"] is None else _duration(line["elapsed_s"])
        table.add_row(
            *(str(line[name]) for name in ("job", "project", "user", "state")),
            at_scheduler + reason,
            str(line["node"] or ""),
            _duration(line["age_s"]),
            f"{elapsed}/{_duration(line['limit_s'])}",
            str(line["attempt"]),
            str(line["message"] or ""),
        )
    _print(table)


def _duration(seconds: object) -> str:
    """`42s`, `12m`, `3h05m`, `4d02h`."""
    whole = int(str(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if whole < 60:
        return f"{whole}s"
    if minutes < 60:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{days}d{hours % 24:02}h"


# --- usage -------------------------------------------------------------------------------------------------------


def show_usage(
    month: Annotated[str | None, typer.Option("--month", help="YYYY-MM (UTC); default: this month.")] = None,
    months: Annotated[int, typer.Option("--months", min=1, max=_MOST_MONTHS, help="So many, that one the last.")] = 1,
    by: Annotated[Grouping, typer.Option("--by", help="Whose.")] = Grouping.PROJECT,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Core-hours, processor hours and efficiency by project or user and month, from the scheduler's accounting; of
    projects also what they keep at the moment, in the present month's lines.

    Example: divbase-gateway usage --months 3 --by user
    """
    values = load(config).settings
    chosen = _months(month, months)
    with _database(values) as database:
        missing = _fill_in(database, values, chosen[0].start)
        lines = usage.by_month(database, chosen, by.value)
        present = Month.of(SystemClock().now())
        if by is Grouping.PROJECT and present in chosen:
            lines = usage.with_storage(database, lines, present)
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines], indent=2))
    elif lines:
        _print_usage(lines, by)
    else:
        typer.echo("Nothing was used.")
    if missing:
        words = f"Accounting has said nothing yet of {missing} attempts that ended; they count from start to end."
        typer.echo(words, err=as_json)


def _months(last: str | None, count: int) -> list[Month]:
    """`count` months up to `last`, the first one first."""
    try:
        month = Month.of(SystemClock().now()) if last is None else Month.parse(last)
    except ValueError:
        raise InvalidRequest(f"{last!r} is no month.", hint="Write it as YYYY-MM, for example 2026-05.") from None
    found = [month]
    while len(found) < count:
        found.insert(0, Month.of(found[0].start - timedelta(days=1)))
    return found


def _fill_in(database: Database, values: Settings, since: datetime) -> int:
    """Fill in what accounting can tell by now; how many attempts it still says nothing of."""
    if usage.count_missing(database, since) == 0:
        return 0
    try:
        with _scheduler(values) as scheduler:
            return usage.fill_in(database, scheduler, since)
    except SchedulerUnavailable as error:
        typer.echo(f"Accounting was not asked for what it has not told yet: {error.message}", err=True)
        return usage.count_missing(database, since)


def _print_usage(lines: Sequence[usage.Line], by: Grouping) -> None:
    keeps = ("keeps",) if by is Grouping.PROJECT else ()
    table = Table("month", by.value, "jobs", "attempts", "core-hours", "CPU-hours", "efficiency", *keeps)
    for line in lines:
        efficiency = "-" if line.efficiency is None else f"{line.efficiency:.0%}"
        numbers = (str(line.jobs), str(line.attempts), f"{line.core_hours:.2f}", f"{line.cpu_hours:.2f}", efficiency)
        kept = "-" if line.stored_bytes is None else storage.amount(line.stored_bytes)
        table.add_row(line.month, line.name, *numbers, *((kept,) if keeps else ()))
    _print(table)


# --- estimates ---------------------------------------------------------------------------------------------------


def show_estimates(config: Config = None, as_json: AsJson = False) -> None:
    """What jobs took against what was estimated: the latest that succeeded, of those worth estimating.

    Plans are corrected by it: what a job is expected to take, and its time limit.

    Example: divbase-gateway estimates
    """
    with _database(load(config).settings) as database, database.read() as session:
        runs = corrections.latest_runs(session)
    correction, memory = learn(runs), memory_used(runs)
    if as_json:
        used = None if memory is None else {"median": memory[0], "largest": memory[1]}
        typer.echo(json.dumps({"runs": len(runs), **asdict(correction), "memory_used": used}, indent=2))
        return
    table = Table("", "")
    table.show_header = False
    table.add_row("jobs compared", str(len(runs)))
    table.add_row("half of them took up to", f"{correction.usual:.2f} x the model")
    table.add_row("nearly all took up to", f"{correction.slow:.2f} x the model")
    if memory is not None:
        table.add_row("memory used, of that asked for", f"{memory[0]:.0%} (median), {memory[1]:.0%} (largest)")
    _print(table)
    if correction.runs == 0:
        typer.echo(f"Fewer than {FEWEST} jobs can be compared: plans follow the model as it is.")


# --- audit -------------------------------------------------------------------------------------------------------


def run_audit(
    since: Annotated[str, typer.Option("--since", help="How far back: 90m, 12h, 7d, 4w.")] = "7d",
    shared_account: Annotated[
        bool,
        typer.Option("--shared-account", help="Other gateways use the account too: unknown runs are theirs."),
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compare every job accepted since then with what the scheduler's accounting says ran.

    Exit status 0 where all is as it should be; 1 where something is found, or accounting does not answer.

    Example: divbase-gateway audit --since 12h
    """
    values = load(config).settings
    clock = SystemClock()
    begin = clock.now() - _since(since)
    lost_after = timedelta(seconds=values.jobs.lost_after_s)
    with _database(values) as database, _scheduler(values) as scheduler:
        found = audit.audit(database, scheduler, clock, begin, lost_after, shared_account=shared_account)
    if as_json:
        typer.echo(json.dumps(_audit_record(found, begin), indent=2))
    else:
        _print_audit(found, begin)
    if found.faults:
        raise typer.Exit(1)


def _since(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"{text!r} is no duration.", hint="Write a number and m, h, d or w, for example 7d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _audit_record(found: Audit, since: datetime) -> dict[str, object]:
    return {
        "since": since.isoformat(),
        "clean": not found.faults,
        "runs": found.runs,
        "of_others": found.of_others,
        "too_early": found.too_early,
        "by_state": {state: asdict(count) for state, count in sorted(found.by_state.items())},
        "findings": [
            {**asdict(each), "harmless": each.is_harmless, "what_to_do": each.advice} for each in found.findings
        ],
    }


def _print_audit(found: Audit, since: datetime) -> None:
    jobs_found = sum(count.jobs for count in found.by_state.values())
    others = f", and {found.of_others} that the database does not know" if found.of_others else ""
    typer.echo(
        f"Jobs accepted since {since:%Y-%m-%d %H:%M} UTC: {jobs_found}; runs in accounting: {found.runs}{others}."
    )
    if found.by_state:
        table = Table("state", "jobs", "no run", "one run", "two or more", "runs that counted")
        for state in [state for state in JobState if state in found.by_state]:
            count = found.by_state[state]
            table.add_row(state, *map(str, (count.jobs, count.none, count.one, count.more, count.counted)))
        _print(table)
    if found.too_early:
        typer.echo(f"{found.too_early} ended minutes ago, and accounting may not have them yet.")
    for title, listed in (
        ("Does not match", found.faults),
        ("For information", [each for each in found.findings if each.is_harmless]),
    ):
        if listed:
            _print(_findings_table(title, listed))
    faults = len(found.faults)
    typer.echo("Clean." if not faults else f"{faults} finding{'' if faults == 1 else 's'}.")


def _findings_table(title: str, findings: Sequence[Finding]) -> Table:
    table = Table("what", "job", "attempt", "SLURM id", "found", "what to do", title=title, title_justify="left")
    for each in findings:
        shown = (each.kind, each.job, each.attempt, each.slurm_job_id, each.words, each.advice)
        table.add_row(*("" if value is None else str(value) for value in shown))
    return table


# --- drain -------------------------------------------------------------------------------------------------------


def begin_drain(
    reason: Annotated[str, typer.Option("--reason", help="What users are told: what happens, and until when.")],
    config: Config = None,
) -> None:
    """Accept jobs and submit none until `resume`. Jobs that the scheduler has go on. Again: the reason changes.

    Example: divbase-gateway drain --reason "New disks until Friday noon."
    """
    with _database(load(config).settings) as database, database.write() as session:
        held_back = drain.begin(session, reason, SystemClock().now())
    typer.echo(f"Submission is held back since {held_back.since:%Y-%m-%d %H:%M} UTC: {held_back.reason}")


def end_drain(config: Config = None) -> None:
    """Submit again; the gateway goes on at its next tick.

    Example: divbase-gateway resume
    """
    with _database(load(config).settings) as database, database.write() as session:
        ended = drain.end(session)
    if ended is None:
        typer.echo("Submission was not held back; nothing was changed.")
    else:
        typer.echo(f"Submission goes on. It was held back since {ended.since:%Y-%m-%d %H:%M} UTC: {ended.reason}")


# --- all of them -------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[..., None]] = {
    "jobs": list_jobs,
    "usage": show_usage,
    "estimates": show_estimates,
    "audit": run_audit,
    "drain": begin_drain,
    "resume": end_drain,
}


@contextmanager
def _database(values: Settings) -> Iterator[Database]:
    revision.require_head(values.database.url)
    database = Database(values.database.url, pool_size=1)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def _scheduler(values: Settings) -> Iterator[Scheduler]:
    from divbase_gateway import bootstrap  # with every adapter: the commands that ask only the database start without

    set_up_logs("console", "warning")  # on standard error; what a script reads is on standard output alone
    scheduler = bootstrap.build_scheduler(values, SystemClock())
    try:
        yield scheduler
    finally:
        bootstrap.close_scheduler(scheduler)


def _print(table: Table) -> None:
    """As wide as it needs to be where nobody looks at a terminal: a line that is cut cannot be searched."""
    width = None if sys.stdout.isatty() else 400
    Console(markup=False, highlight=False, width=width).print(table)

"""Commands about what a project may charge, use and keep, and what it used. It knows no route and no rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_projects
from divbase_cli.failure import UsageError
from divbase_cli.output import size
from divbase_cli.quantities import parse_memory, parse_minutes, parse_size, shown_memory, shown_minutes
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import Allocation, AllocationValues

app = group("allocation", "What a project may charge and use at the cluster, and keep.")

MaybeName = Annotated[
    str | None,
    typer.Argument(help="Name of the project; the current one if left out.", autocompletion=complete_projects),
]
_FIELDS = {
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "wckey": "wckey",
    "max-cores": "max_cores",
    "max-memory": "max_memory_mb",
    "max-time": "max_minutes",
    "max-open-jobs": "max_open_jobs",
    "core-hours": "core_hours_a_month",
    "max-size": "max_bytes",
}
"""What the options are called on the wire."""


@command(app, "show", example="divbase projects allocation show vole-2024")
def show(session: Session, name: MaybeName = None) -> None:
    """Show what a project may charge and use, and whether the project or the whole site says so."""
    _print(session, session.client.projects.allocation(name or session.project))


@command(
    app,
    "set",
    example=[
        "divbase projects allocation set vole-2024 --account snic2024-1 --max-memory 64G --max-time 12h",
        "divbase projects allocation set vole-2024 --core-hours 5000 --clear partition --clear qos",
    ],
)
def set_(
    session: Session,
    name: MaybeName = None,
    account: Annotated[str | None, typer.Option(help="SLURM account that is charged.")] = None,
    partition: Annotated[str | None, typer.Option(help="SLURM partition.")] = None,
    qos: Annotated[str | None, typer.Option(help="SLURM QOS.")] = None,
    wckey: Annotated[str | None, typer.Option(help="SLURM wckey.")] = None,
    max_cores: Annotated[int | None, typer.Option(help="Most cores of one job; it gets no more.", min=1)] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Most memory of one job, e.g. 64G; one that needs more is refused.")
    ] = None,
    max_time: Annotated[
        str | None, typer.Option(help="Longest time limit of one job, e.g. 90m, 12h, 2d; more is refused.")
    ] = None,
    max_open_jobs: Annotated[int | None, typer.Option(help="Most query jobs that have not ended.", min=0)] = None,
    core_hours: Annotated[float | None, typer.Option(help="Most core-hours a month.", min=0)] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Most that files, their versions and results take, e.g. 500GB, 2TB.")
    ] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help=f"Take the project's own value away: {', '.join(_FIELDS)}; repeatable."),
    ] = None,
) -> None:
    """Change what a project may charge and use; what is not named stays. Site admins only."""
    given = {
        "account": account,
        "partition": partition,
        "qos": qos,
        "wckey": wckey,
        "max-cores": max_cores,
        "max-memory": None if max_memory is None else parse_memory(max_memory, "--max-memory"),
        "max-time": None if max_time is None else parse_minutes(max_time, "--max-time"),
        "max-open-jobs": max_open_jobs,
        "core-hours": core_hours,
        "max-size": None if max_size is None else parse_size(max_size, "--max-size"),
    }
    changes = {option: value for option, value in given.items() if value is not None}
    _print(session, _change(session, name or session.project, changes, clear or ()))


def _change(session: Session, project: str, changes: Mapping[str, object], cleared: Sequence[str]) -> Allocation:
    from divbase_client.models import AllocationChange
    from pydantic import ValidationError

    unknown = [option for option in cleared if option not in _FIELDS]
    if unknown:
        raise UsageError(f"--clear {unknown[0]}: there is no such value.", hint=f"There are {', '.join(_FIELDS)}.")
    both = [option for option in cleared if option in changes]
    if both:
        raise UsageError(f"--{both[0]} and --clear {both[0]} do not go together.")
    if not changes and not cleared:
        raise UsageError("Nothing is to be changed.", hint="Give a value, such as --account NAME, or --clear account.")
    values = {_FIELDS[option]: value for option, value in changes.items()} | {_FIELDS[each]: None for each in cleared}
    try:
        change = AllocationChange.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        option = next(option for option, field in _FIELDS.items() if field == fault["loc"][0])
        raise UsageError(f"--{option} {fault['input']!r}: {fault['msg']}.") from error
    return session.client.projects.change_allocation(project, change)


def _print(session: Session, allocation: Allocation) -> None:
    if session.output.as_json:
        session.output.json(allocation.model_dump(mode="json"))
        return
    session.output.table(["WHAT", "VALUE", "SET FOR"], [_row(*line, allocation) for line in _LINES])


_LINES = (
    ("Account", "account", "the cluster's default"),
    ("Partition", "partition", "the cluster's default"),
    ("QOS", "qos", "the cluster's default"),
    ("Wckey", "wckey", "none"),
    ("Cores of one job", "max_cores", "no limit"),
    ("Memory of one job", "max_memory_mb", "no limit"),
    ("Time of one job", "max_minutes", "no limit"),
    ("Open query jobs", "max_open_jobs", "no limit"),
    ("Core-hours a month", "core_hours_a_month", "no limit"),
    ("Files and results", "max_bytes", "no limit"),
)


def _row(label: str, field: str, nothing: str, allocation: Allocation) -> tuple[str, object, str | None]:
    own, site = _value(allocation, field), _value(allocation.site, field)
    if own is not None:
        return label, own, "the project"
    return (label, nothing, None) if site is None else (label, site, "the site")


def _value(values: AllocationValues, field: str) -> object:
    value = getattr(values, field)
    if value is None:
        return None
    shown = {
        "max_memory_mb": shown_memory,
        "max_minutes": shown_minutes,
        "core_hours_a_month": "{:.12g}".format,
        "max_bytes": size,
    }
    return shown[field](value) if field in shown else value


def print_usage(session: Session, name: str, month: str | None) -> None:
    """What a project used in a month, and what is left."""
    used = session.client.projects.usage(name, month)
    if session.output.as_json:
        session.output.json(used.model_dump(mode="json"))
        return
    open_jobs = f"{used.open_jobs}" if used.max_open_jobs is None else f"{used.open_jobs} of {used.max_open_jobs}"
    session.output.facts(
        [
            ("Project", used.project),
            ("Month", f"{used.month} (UTC)"),
            ("Core-hours used", f"{used.core_hours:.2f}"),
            ("Open jobs may use", f"{used.committed:.2f}"),
            ("Limit", "no limit" if used.limit is None else f"{used.limit:.2f}"),
            ("Left", None if used.left is None else f"{used.left:.2f}"),
            ("Attempts that ran", used.jobs),
            ("Open query jobs", open_jobs),
        ]
    )

"""Commands about projects. It knows the client and the output, no route."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli import allocation, keeping
from divbase_cli.command import command, group
from divbase_cli.completion import complete_projects
from divbase_cli.config import save_config
from divbase_cli.failure import UsageError
from divbase_cli.output import size
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import Project

app = group("projects", "Projects: one bucket of files each.")
app.add_typer(allocation.app)
app.add_typer(keeping.app)

Name = Annotated[str, typer.Argument(help="Name of the project.", show_default=False, autocompletion=complete_projects)]
MaybeName = Annotated[
    str | None,
    typer.Argument(help="Name of the project; the current one if left out.", autocompletion=complete_projects),
]


def _show(session: Session, project: Project) -> None:
    if session.output.as_json:
        session.output.json(project.model_dump(mode="json"))
        return
    session.output.facts(
        [
            ("Project", project.name),
            ("Description", project.description),
            ("Bucket", project.bucket),
            ("Your role", project.role),
            ("Files", project.files),
            ("Size", size(project.bytes)),
            ("BCF copies", "wanted: queries read them where that is cheaper" if project.sidecars else "none"),
            ("Created", project.created_at),
        ]
    )


@command(app, "ls", example="divbase projects ls")
def ls(session: Session) -> None:
    """List your projects; all of them for site admins."""
    found = list(session.client.projects.list())
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
        return
    session.output.table(
        ["PROJECT", "ROLE", "FILES", "SIZE", "DESCRIPTION"],
        [(one.name, one.role, one.files, size(one.bytes), one.description) for one in found],
    )


@command(app, "create", example="divbase projects create vole-2024 --description 'Bank voles, 40 sites'")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the new project.", show_default=False)],
    description: Annotated[str, typer.Option(help="What it is about.")] = "",
    bucket: Annotated[str | None, typer.Option(help="An existing bucket to adopt.")] = None,
) -> None:
    """Create a project and its bucket, or adopt an existing bucket. Site admins only."""
    _show(session, session.client.projects.create(name, description=description, bucket=bucket))


@command(app, "show", example="divbase projects show vole-2024")
def show(session: Session, name: MaybeName = None) -> None:
    """Show one project, and what its files and results take of its room."""
    project = session.client.projects.get(name or session.project)
    storage = session.client.projects.storage(project.name)
    if session.output.as_json:
        session.output.json({**project.model_dump(mode="json"), "storage": storage.model_dump(mode="json")})
        return
    _show(session, project)
    session.output.text("")
    keeping.print_storage(session, storage)


@command(app, "use", example="divbase projects use vole-2024")
def use(session: Session, name: Name) -> None:
    """Make a project the current one of the profile."""
    project = session.client.projects.get(name)
    if not session.profile.url:
        raise UsageError("There is no profile to keep it in.", hint="Log in first, or set DIVBASE_PROJECT.")
    save_config(session.config.with_profile(session.profile_name, replace(session.profile, project=project.name)))
    if session.output.as_json:
        session.output.json({"profile": session.profile_name, "project": project.name})
    else:
        session.output.text(f"Project {project.name} is used from now on (profile {session.profile_name}).")


@command(
    app,
    "edit",
    example=[
        "divbase projects edit vole-2024 --description 'Bank voles, 52 sites'",
        "divbase projects edit vole-2024 --sidecars",
    ],
)
def edit(
    session: Session,
    name: MaybeName = None,
    description: Annotated[str | None, typer.Option(help="What it is about.", show_default=False)] = None,
    sidecars: Annotated[
        bool | None,
        typer.Option(
            "--sidecars/--no-sidecars",
            help="Whether there are to be BCF copies of its VCF files, which queries read faster.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Change a project; what is not named stays."""
    if description is None and sidecars is None:
        raise UsageError("Nothing is to be changed.", hint="Give --description, --sidecars or --no-sidecars.")
    changed = session.client.projects.change(name or session.project, description=description, sidecars=sidecars)
    _show(session, changed)


@command(app, "usage", example=["divbase projects usage vole-2024", "divbase projects usage --month 2024-05"])
def usage(
    session: Session,
    name: MaybeName = None,
    month: Annotated[str | None, typer.Option(help="YYYY-MM in UTC; the present one if left out.")] = None,
) -> None:
    """Show the core-hours that a project used in a month, and what is left of its limit."""
    allocation.print_usage(session, name or session.project, month)

"""Commands about the members of a project. It knows the client and the output, no route."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from divbase_cli.command import command, group
from divbase_cli.session import Session

app = group("members", "Who may do what in a project.")

RoleName = Literal["READ", "QUERY", "EDIT", "MANAGE"]
Email = Annotated[str, typer.Argument(help="Email address of the user.", show_default=False)]


@command(app, "ls", example="divbase members ls -p vole-2024")
def ls(session: Session) -> None:
    """List the members of the project."""
    found = list(session.client.members.list(session.project))
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
        return
    session.output.table(["USER", "NAME", "ROLE"], [(one.user, one.user_name, one.role) for one in found])


@command(app, "add", example="divbase members add ada@example.org --role EDIT")
def add(
    session: Session,
    email: Email,
    role: Annotated[
        RoleName, typer.Option(help="Each may do what those before it may.", case_sensitive=False)
    ] = "READ",
) -> None:
    """Add a user to the project, or give them another role."""
    from divbase_client.models import Role

    membership = session.client.members.set(session.project, email, Role(role))
    if session.output.as_json:
        session.output.json(membership.model_dump(mode="json"))
    else:
        session.output.text(f"{membership.user} has the role {membership.role} in {membership.project}.")


@command(app, "rm", example="divbase members rm ada@example.org")
def rm(session: Session, email: Email) -> None:
    """Take a user out of the project."""
    session.client.members.remove(session.project, email)
    if session.output.as_json:
        session.output.json({"project": session.project, "user": email, "removed": True})
    else:
        session.output.text(f"{email} is no longer a member of {session.project}.")

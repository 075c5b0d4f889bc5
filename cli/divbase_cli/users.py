"""Commands about the users of the site, for site admins. It knows the client and the output, no route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.failure import UsageError
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import User

app = group("users", "Users of the site; for site admins.")


def _show(session: Session, users: Sequence[User]) -> None:
    session.output.table(
        ["USER", "NAME", "SITE ADMIN", "ACTIVE", "CREATED"],
        [(one.email, one.name, one.is_admin, one.active, one.created_at) for one in users],
    )


@command(app, "ls", example="divbase users ls")
def ls(session: Session) -> None:
    """List all users."""
    found = list(session.client.users.list())
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
    else:
        _show(session, found)


@command(app, "create", example="divbase users create ada@example.org --name 'Ada L.'")
def create(
    session: Session,
    email: Annotated[str, typer.Argument(help="Email address.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the person.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make them a site admin.")] = False,
) -> None:
    """Add a user. Give them a key with `divbase keys create NAME --user EMAIL`."""
    user = session.client.users.create(email, name=name, is_admin=admin)
    if session.output.as_json:
        session.output.json(user.model_dump(mode="json"))
    else:
        _show(session, [user])


@command(app, "edit", example="divbase users edit ada@example.org --no-active")
def edit(
    session: Session,
    user: Annotated[str, typer.Argument(help="Email address or id.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the person.")] = None,
    admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="Site admin or not.")] = None,
    active: Annotated[bool | None, typer.Option("--active/--no-active", help="May log in or not.")] = None,
) -> None:
    """Change a user; what is not named stays."""
    if name is None and admin is None and active is None:
        raise UsageError("Nothing to change was named.", hint="Use --name, --admin/--no-admin or --active/--no-active.")
    changed = session.client.users.change(user, name=name, is_admin=admin, active=active)
    if session.output.as_json:
        session.output.json(changed.model_dump(mode="json"))
    else:
        _show(session, [changed])

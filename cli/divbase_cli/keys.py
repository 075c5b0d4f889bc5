"""Commands about API keys. It knows the client and the output, no route."""

from __future__ import annotations

from typing import Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.session import Session

app = group("keys", "API keys.")


@command(app, "ls", example="divbase keys ls")
def ls(
    session: Session,
    user: Annotated[str | None, typer.Option(help="Email address of someone else; site admins only.")] = None,
) -> None:
    """List your keys. Their secrets are not shown, as no one has them."""
    found = list(session.client.keys.list(user=user))
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
        return
    session.output.table(
        ["KEY", "NAME", "CREATED", "ENDS", "LAST USED", "REVOKED"],
        [
            (one.prefix, one.name, one.created_at, one.expires_at or "never", one.last_used_at, one.revoked_at)
            for one in found
        ],
    )


@command(
    app,
    "create",
    example=["divbase keys create laptop --days 365", "divbase keys create course --user ada@example.org"],
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="What the key is for, to recognise it by.", show_default=False)],
    days: Annotated[int, typer.Option(help="Days until it ends; 0 for never.", min=0, max=3650)] = 90,
    user: Annotated[str | None, typer.Option(help="Email address of someone else; site admins only.")] = None,
) -> None:
    """Make a key and print it: this is the only time that it is shown."""
    created = session.client.keys.create(name, expires_in_days=days or None, user=user)
    if session.output.as_json:
        session.output.json(created.model_dump(mode="json"))
        return
    session.output.note(f"Key {created.prefix} ({created.name}). Keep it now; it is not shown again:")
    session.output.text(created.secret)


@command(app, "revoke", example="divbase keys revoke dvb_k7q2m4xa")
def revoke(
    session: Session, key: Annotated[str, typer.Argument(help="Prefix or id of the key.", show_default=False)]
) -> None:
    """End a key. Its next use is refused."""
    revoked = session.client.keys.revoke(key)
    if session.output.as_json:
        session.output.json(revoked.model_dump(mode="json"))
    else:
        session.output.text(f"Key {revoked.prefix} ({revoked.name}) is revoked.")

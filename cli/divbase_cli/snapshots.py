"""Commands about snapshots of a project's files. It knows the client and the output, no route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_snapshots
from divbase_cli.output import size
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import File, Snapshot

app = group("snapshots", "Snapshots: the versions that all files have now, under a name to ask questions at.")

NewName = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the snapshot.", autocompletion=complete_snapshots)]


@command(app, "create", example="divbase snapshots create paper-1 --note 'as submitted'")
def create(
    session: Session,
    name: NewName,
    note: Annotated[str, typer.Option(help="A line of text to remember it by.")] = "",
) -> None:
    """Give the current version of every file a name. Nothing is copied; DivBase deletes none of them for good."""
    made = session.client.snapshots.create(session.project, name, note=note)
    if session.output.as_json:
        session.output.json(made.model_dump(mode="json"))
        return
    session.output.text(f"{made.name}: {made.files} files, {size(made.bytes)}")
    session.output.note(f"Ask questions at it with: divbase query run --at {made.name} …")


@command(app, "ls", example="divbase snapshots ls")
def ls(session: Session) -> None:
    """List snapshots, newest first."""
    found = list(session.client.snapshots.list(session.project))
    if session.output.as_json:
        session.output.json([one.model_dump(mode="json") for one in found])
        return
    session.output.table(
        ["SNAPSHOT", "FILES", "SIZE", "BY", "CREATED", "NOTE"],
        [(one.name, one.files, size(one.bytes), one.created_by, one.created_at, one.note) for one in found],
    )


@command(app, "show", example="divbase snapshots show paper-1")
def show(session: Session, name: Name) -> None:
    """Show a snapshot with its files, and what has become of them since."""
    snapshot = session.client.snapshots.get(session.project, name)
    files = list(session.client.snapshots.files(session.project, name))
    if session.output.as_json:
        listed = [one.model_dump(mode="json") for one in files]
        session.output.json({**snapshot.model_dump(mode="json"), "file_list": listed})
        return
    session.output.facts(_facts(snapshot))
    session.output.text("")
    session.output.table(
        ["KEY", "SIZE", "SAMPLES", "STATE", "SINCE THEN", "VERSION"],
        [(one.key, size(one.size), one.samples, one.state, _since_then(one), one.version_id) for one in files],
    )


def _facts(snapshot: Snapshot) -> list[tuple[str, object]]:
    return [
        ("Snapshot", snapshot.name),
        ("Note", snapshot.note),
        ("By", snapshot.created_by),
        ("Created", snapshot.created_at),
        ("Files", f"{snapshot.files}, {size(snapshot.bytes)}"),
    ]


def _since_then(file: File) -> str:
    if file.deleted:
        return "deleted"
    return "the same" if file.is_latest else "changed"


@command(app, "rm", example="divbase snapshots rm paper-1")
def rm(session: Session, name: Name) -> None:
    """Remove a snapshot. The files stay as they are."""
    session.client.snapshots.remove(session.project, name)
    if session.output.as_json:
        session.output.json({"project": session.project, "snapshot": name, "removed": True})
    else:
        session.output.text(f"The snapshot {name} is removed; the files stay as they are.")

"""Commands about the sample metadata of a project. It knows the client and the output; the rules are the client's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from divbase_cli.command import command, group
from divbase_cli.failure import CommandFailed, ExitCode, UsageError
from divbase_cli.progress import transfer_bars
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.sample_metadata import Fault, SampleTable

app = group("metadata", "Sample metadata: a table with one row for each sample.")

Table = Annotated[Path, typer.Argument(help="The table, a TSV file.", show_default=False)]


@command(app, "template", example="divbase metadata template --columns Area,Sex,Year --output samples.tsv")
def template(
    session: Session,
    columns: Annotated[str, typer.Option(help="Names of columns to fill in, with commas between.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output if left out.")
    ] = None,
) -> None:
    """Write a table with the samples of the project, to be filled in."""
    names = [name.strip() for name in columns.split(",") if name.strip()]
    table = session.client.metadata.template(session.project, names)
    if output is None and session.output.as_json:
        session.output.json({"table": table})
    elif output is None:
        sys.stdout.write(table)
    else:
        try:
            with output.open("x", encoding="utf-8", newline="") as file:
                file.write(table)
        except FileExistsError as error:
            raise CommandFailed(f"{output} exists.", ExitCode.CONFLICT, hint="Choose another name.") from error
        if session.output.as_json:
            session.output.json({"path": str(output), "samples": table.count("\n") - 1})
        else:
            session.output.text(f"{output}: {table.count(chr(10)) - 1} samples")


@command(app, "validate", example="divbase metadata validate samples.tsv")
def validate(session: Session, table: Table) -> None:
    """Check a table without the gateway, and show every fault with its row and column."""
    parsed = _parsed(session, table)
    if session.output.as_json:
        session.output.json(
            {
                "valid": True,
                "rows": len(parsed.rows),
                "columns": [{"name": one.name, "kind": one.kind, "is_list": one.is_list} for one in parsed.columns],
            }
        )
    else:
        session.output.text(f"{table} is valid: {len(parsed.rows)} samples, {len(parsed.columns)} columns.")


def _parsed(session: Session, table: Path) -> SampleTable:
    from divbase_client.sample_metadata import InvalidTable, parse_table

    try:
        return parse_table(table.read_bytes())
    except InvalidTable as error:
        _show_faults(session, list(error.faults))
        raise CommandFailed(
            f"{table} has {len(error.faults)} fault{'s' if len(error.faults) > 1 else ''}.",
            ExitCode.BAD_INPUT,
            hint="Correct the rows shown and try again.",
            code="invalid_table",
        ) from error


def _show_faults(session: Session, faults: list[Fault]) -> None:
    if session.output.as_json:
        shown = [{"row": one.row, "column": one.column, "message": one.message} for one in faults]
        session.output.json({"valid": False, "faults": shown})
    else:
        session.output.table(["ROW", "COLUMN", "FAULT"], [(one.row, one.column, one.message) for one in faults])


@command(app, "push", example="divbase metadata push samples.tsv")
def push(session: Session, table: Table) -> None:
    """Check a table and make it the project's."""
    from divbase_client.metadata import KEY

    _parsed(session, table)
    session.interrupted = "Run the same command again; the project has its old table until this one is whole."
    with transfer_bars(session.output) as progress:
        session.client.files.upload(session.project, table, KEY, progress)
    show_current(session)


@command(app, "show", example="divbase metadata show")
def show(session: Session) -> None:
    """Show the columns of the project's table and some of their values."""
    show_current(session)


def show_current(session: Session) -> None:
    metadata = session.client.metadata.get(session.project)
    if session.output.as_json:
        session.output.json(metadata.model_dump(mode="json"))
        return
    session.output.text(f"{metadata.key}: {metadata.rows} samples, version {metadata.version_id}")
    session.output.table(
        ["COLUMN", "KIND", "DISTINCT", "VALUES"],
        [
            (one.name, f"list of {one.kind}" if one.is_list else one.kind, one.distinct, ", ".join(one.values))
            for one in metadata.columns
        ],
    )
    for warning in metadata.warnings:
        session.output.warn(warning)


@command(app, "query", example="divbase metadata query --where 'Area:North,West;Year:>=2000'")
def query(
    session: Session,
    where: Annotated[str | None, typer.Option(help="The filter; all rows if left out.")] = None,
    filter: Annotated[str | None, typer.Argument(metavar="[WHERE]", help="The same as --where.")] = None,
) -> None:
    """Show the samples that match a filter, and the files that hold them."""
    if where is not None and filter is not None:
        raise UsageError("The filter was given twice.")
    answer = session.client.metadata.query(session.project, where or filter or "")
    if session.output.as_json:
        session.output.json(answer.model_dump(mode="json"))
        return
    session.output.table(["SAMPLE", "FILES"], [(one.sample, ", ".join(one.files)) for one in answer.samples])
    for warning in answer.warnings:
        session.output.warn(warning)
    session.output.note(f"{len(answer.samples)} samples in {len(answer.files)} files")

"""The `divbase` program: its groups of commands, its help, and how it ends when a command line cannot be read."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from divbase_cli import account, files, jobs, keys, members, metadata, projects, query, repair, snapshots, stats, users
from divbase_cli.command import common_options
from divbase_cli.failure import MEANINGS, ExitCode
from divbase_cli.output import printable

EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {int(code):>3}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    name="divbase",
    help="Query many VCF files in S3 on a shared cluster.\n\n\b\nExample:\n"
    "  divbase login https://divbase.example.org\n"
    "  divbase projects use vole-2024\n"
    "  divbase files upload *.vcf.gz\n"
    "  divbase query run --where 'Area:North' --command 'view -r 21:1-5000000' --download .",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback()(common_options)
account.register(app)
repair.register(files.app)
stats.register(jobs.app)
for noun in (projects, members, keys, users, files, metadata, snapshots, query, jobs):
    app.add_typer(noun.app)


def run(arguments: list[str] | None = None) -> None:
    """Entry point: run one command line and exit with its documented code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=words, prog_name="divbase", standalone_mode=False)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except (typer.Abort, EOFError):
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - Typer has no public name for all of its own
        sys.exit(_refuse(error, as_json="--json" in words))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _refuse(error: Any, *, as_json: bool) -> int:
    """One line for a command line that Typer could not read; anything else is a fault and keeps its traceback."""
    message = getattr(error, "format_message", None)
    if message is None:
        raise error
    words = " ".join(str(message()).split()).replace(": Value error, ", ": ")  # pydantic's, by way of Typer
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "divbase"
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(str(message()) + "\n")
    elif as_json:
        problem = {"title": "UsageError", "detail": words, "code": "usage", "hint": f"See: {where} --help"}
        sys.stderr.write(json.dumps({**problem, "exit_code": int(ExitCode.USAGE)}) + "\n")
    else:
        sys.stderr.write(f"divbase: {printable(words)} See: {where} --help\n")
    return ExitCode.USAGE


if __name__ == "__main__":
    run()

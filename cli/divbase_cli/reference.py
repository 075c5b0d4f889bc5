"""Writes docs/cli.md from the commands: `python -m divbase_cli.reference docs/cli.md`; `--check` finds drift.

It reads our own signatures, not the help of the installed Typer, so that the page does not change with its version.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer

from divbase_cli.command import common_parameters
from divbase_cli.failure import MEANINGS
from divbase_cli.main import app

_HEAD = """# The `divbase` command line

<!-- Written by `python -m divbase_cli.reference docs/cli.md`. Change the commands, not this page. -->

Answers go to standard output, everything else to standard error. At a terminal lists are tables; in a pipe they are
tab-separated lines with a header. With `--json` standard output is one JSON document, and an error is one JSON object
(the gateway's problem document and `exit_code`) on standard error. Sizes are powers of 1000, times are local; in JSON
sizes are bytes and times UTC. Characters that could fool a terminal are printed as escapes.

Install shell completion with `divbase --install-completion`.
"""

_SETTINGS = """## Settings

An option wins over its environment variable, and that over the profile.

| what | option | variable | profile |
| --- | --- | --- | --- |
| profile | `--profile` | `DIVBASE_PROFILE` | `divbase config use` |
| gateway | `--url` | `DIVBASE_URL` | `divbase login` |
| API key | none: arguments are seen by every user of a machine | `DIVBASE_API_KEY` | `divbase login` |
| project | `--project`, `-p` | `DIVBASE_PROJECT` | `divbase projects use` |
| configuration file | none | `DIVBASE_CONFIG` | |

The configuration file (`divbase config path`) holds no secret. Keys are in `credentials.toml` beside it, which only you
may read, or in the desktop's keyring (`divbase login --keyring`). A stored key is sent only to the gateway that it was
stored for. `DIVBASE_DEBUG=1` shows the traceback of an unexpected fault.
"""


def render() -> str:
    """The whole page."""
    lines = [_HEAD, "## Exit codes\n", "| code | meaning |", "| --- | --- |"]
    lines += [f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()]
    lines += ["", _SETTINGS, "## Options of every command\n", *_options(common_parameters()), ""]
    lines += _commands(app, "divbase", 2)
    return "\n".join(lines).rstrip() + "\n"


def _commands(app: typer.Typer, before: str, level: int) -> Iterator[str]:
    """The commands of an app, and below them those of its groups, each group with a heading of `level`."""
    for command in app.registered_commands:
        yield from _command(before, command)
    for group in app.registered_groups:
        noun = group.typer_instance
        if noun is not None:
            name = f"{before} {noun.info.name}"
            yield from (f"{'#' * level} {name}", "", str(noun.info.help), "")
            yield from _commands(noun, name, level + 1)


def _command(before: str, command: Any) -> Iterator[str]:
    text, _, example = str(command.help).partition("\n\n\b\nExample:\n")
    yield from (f"### {before} {command.name}", "", text, "", "```console")
    yield from (f"$ {line.strip()}" for line in example.splitlines())
    yield from ("```", "")
    own = _own_parameters(command.callback)
    if own:
        yield from (*_options(own), "")


def _own_parameters(callback: Callable[..., None]) -> list[inspect.Parameter]:
    parameters = inspect.signature(callback).parameters
    return [one for name, one in parameters.items() if name != "ctx" and not name.startswith("common_")]


def _options(parameters: list[inspect.Parameter]) -> Iterator[str]:
    yield from ("| | | default |", "| --- | --- | --- |")
    for one in parameters:
        kind, info = get_args(one.annotation)[:2]
        yield f"| {_names(one, kind, info)} | {(info.help or '').replace('|', chr(92) + '|')} | {_default(one)} |"


def _names(one: inspect.Parameter, kind: Any, info: Any) -> str:
    if isinstance(info, type(typer.Argument())):
        return f"`{info.metavar or one.name.upper()}{' ...' if get_origin(kind) is list else ''}`"
    declared = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    names = declared or [f"--{one.name.replace('_', '-')}"]
    return ", ".join(f"`{name}{_value(kind)}`" for name in names)


def _value(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " " + "\\|".join(get_args(kind))
    inner = [one for one in get_args(kind) if one is not type(None)]
    if inner and (get_origin(kind) in (Union, list) or type(None) in get_args(kind)):
        return _value(inner[0])
    if kind is bool:
        return ""
    return f" {getattr(kind, '__name__', 'value').upper()}".replace("STR", "TEXT").replace("INT", "NUMBER")


def _default(one: inspect.Parameter) -> str:
    if one.default is inspect.Parameter.empty:
        return "required"
    return "" if one.default in (None, False, "") else f"`{one.default}`"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say whether it is as it would be written."""
    paths = [word for word in arguments if not word.startswith("-")]
    if len(paths) != 1:
        sys.stderr.write("usage: python -m divbase_cli.reference [--check] docs/cli.md\n")
        return 2
    path = Path(paths[0])
    if "--check" not in arguments:
        path.write_text(render(), encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == render():
        return 0
    sys.stderr.write(f"{path} is not what the commands say. Run: python -m divbase_cli.reference {path}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Makes a Typer command of a function that takes a Session: common options, help with an example, and its errors.

The common options stand in one place here, so that every command has them. It knows no single command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from divbase_cli.completion import complete_profiles, complete_projects
from divbase_cli.failure import reported
from divbase_cli.session import Options, Session

F = TypeVar("F", bound=Callable[..., None])

# Named apart from the commands' own parameters: `login` has a URL of its own.
_COMMON: dict[str, Any] = {
    "common_profile": Annotated[
        str | None,
        typer.Option("--profile", help="Profile to use [DIVBASE_PROFILE].", autocompletion=complete_profiles),
    ],
    "common_url": Annotated[str | None, typer.Option("--url", help="Address of the gateway [DIVBASE_URL].")],
    "common_project": Annotated[
        str | None,
        typer.Option("--project", "-p", help="Project [DIVBASE_PROJECT].", autocompletion=complete_projects),
    ],
    "common_json": Annotated[bool, typer.Option("--json", help="Print JSON; errors too, on standard error.")],
}


def group(name: str, help: str) -> typer.Typer:
    """A Typer app for the commands of one noun."""
    return typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def common_parameters() -> list[inspect.Parameter]:
    """The options that every command has, and the program itself before the command."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name == "common_json" else None,
            annotation=annotation,
        )
        for name, annotation in _COMMON.items()
    ]


def take_common(values: dict[str, Any]) -> Options:
    """Take the common options out of a call's arguments."""
    return Options(**{field.name: values.pop(f"common_{field.name}") for field in fields(Options)})


def common_options(ctx: typer.Context, **values: Any) -> None:
    """Keep the options that stood before the command's name."""
    ctx.obj = take_common(values)


def _tell_version(asked: bool) -> None:
    """What `divbase version` says of this program, without asking a gateway."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"divbase {version('divbase-cli')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", help="Show this program's version.", is_eager=True, callback=_tell_version)
]

common_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *common_parameters(),
        inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Version),
    ]
)
common_options.__annotations__ = {"ctx": typer.Context, **_COMMON, "version": _Version}


def command(app: typer.Typer, name: str, *, example: str | Iterable[str]) -> Callable[[F], F]:
    """Register the decorated function, whose first parameter is the Session, as command `name` of `app`."""
    examples = [example] if isinstance(example, str) else list(example)

    def register(function: F) -> F:
        own = inspect.signature(function, eval_str=True).parameters
        taken = list(own.values())[1:]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            ctx: typer.Context = values.pop("ctx")
            given = take_common(values)
            session = Session(_merged(ctx.obj, given))
            with reported(as_json=session.options.json, interrupted=lambda: session.interrupted):
                try:
                    function(session, **values)
                finally:
                    session.close()

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in taken]
        signature = inspect.Signature([context, *parameters, *common_parameters()])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {key: one.annotation for key, one in signature.parameters.items()}
        text = inspect.cleandoc(function.__doc__ or "")
        shown = "\n".join(f"  {line}" for line in examples)
        app.command(name, help=f"{text}\n\n\b\nExample:\n{shown}")(run)
        return function

    return register


def _merged(before: Any, given: Options) -> Options:
    """What stood before the command's name holds unless it is said again behind it."""
    if not isinstance(before, Options):
        return given
    return Options(
        profile=given.profile or before.profile,
        url=given.url or before.url,
        project=given.project or before.project,
        json=given.json or before.json,
    )

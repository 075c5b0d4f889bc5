"""The operator's commands: `divbase-gateway`. Each reads the settings, does one thing and says what it did.

It must not know rules or adapters: those are in `services` and behind `bootstrap`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from divbase_gateway import operating
from divbase_gateway.clock import SystemClock
from divbase_gateway.db import revision
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import DivBaseError
from divbase_gateway.logs import set_up_logs
from divbase_gateway.operating import AsJson, Config
from divbase_gateway.services import keys, users
from divbase_gateway.settings import LoadedSettings, Settings, load, markdown

if TYPE_CHECKING:
    import uvicorn

    from divbase_gateway.bootstrap import Gateway

# Commands import the server and the adapters when they are run: nobody waits a second for them who only asks for help.

app = typer.Typer(
    name="divbase-gateway",
    help="Runs and looks after a DivBase gateway.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def run() -> None:
    """The entry point: our errors become one line and exit status 1."""
    try:
        app()
    except DivBaseError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"{error.hint}\n")
        sys.exit(1)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"divbase-gateway {version('divbase-gateway')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show this program's version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


@app.command()
def settings(
    config: Config = None,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the documentation.")] = False,
) -> None:
    """Print every setting and where its value comes from; secrets are masked.

    Example: divbase-gateway settings --config /etc/divbase.toml
    """
    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    loaded = load(config)
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in loaded.lines()], indent=2))
    else:
        _print_settings(loaded)


@app.command()
def serve(config: Config = None) -> None:
    """Serve the API, follow the jobs, until Ctrl-C or SIGTERM.

    Example: divbase-gateway serve --config /etc/divbase.toml
    """
    from divbase_gateway import bootstrap

    values = load(config).settings
    _end_in_order()
    set_up_logs(values.server.log_format, values.server.log_level)
    revision.require_head(values.database.url)
    gateway = bootstrap.build(values)
    gateway.start()
    try:
        _serve(gateway)
    finally:
        gateway.stop()


@app.command()
def init(
    email: Annotated[str, typer.Option("--email", help="Email address of the first site admin.")],
    name: Annotated[str, typer.Option("--name", help="Their name.")] = "",
    config: Config = None,
) -> None:
    """Set a new site up: make the tables and the first site admin, and print an API key, once.

    Run again it says that all is done and changes nothing.

    Example: divbase-gateway init --email ada@example.org
    """
    from divbase_gateway.db import migrate as schema

    values = load(config).settings
    schema.upgrade(values.database.url)
    database = Database(values.database.url, pool_size=1)
    try:
        key = _create_first_admin(database, email, name, values)
    finally:
        database.close()
    if key is None:
        return
    # Only the key is on standard output, so that a script can take it from there.
    typer.echo("The first site admin's API key, which is not shown again:", err=True)
    typer.echo(key)


@app.command()
def migrate(config: Config = None) -> None:
    """Bring the database's schema to this program's version. Stop the gateway first.

    Example: divbase-gateway migrate
    """
    from divbase_gateway.db import migrate as schema

    url = load(config).settings.database.url
    before = revision.current(url)
    schema.upgrade(url)
    after = revision.current(url)
    typer.echo(
        f"The schema is at revision {after}." if before == after else f"Migrated from {before or 'nothing'} to {after}."
    )


@app.command("doctor")
def examine(config: Config = None, as_json: AsJson = False) -> None:
    """Look at database, S3, scheduler and bcftools, and say what to do about each failure. Exit status 1 if any.

    Example: divbase-gateway doctor
    """
    from divbase_gateway import doctor

    checks = doctor.examine(load(config).settings)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        table = Table("check", "", "found", "what to do")
        for check in checks:
            state = Text("ok", "green") if check.ok else Text("failed", "red")
            table.add_row(check.name, state, check.words, "" if check.ok else check.hint or "")
        Console(markup=False, highlight=False).print(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the API; docs/openapi.json is this.

    Example: divbase-gateway openapi > docs/openapi.json
    """
    from divbase_gateway.api.app import openapi_document

    typer.echo(json.dumps(openapi_document(), indent=2, ensure_ascii=False))


@app.command("up")
def bring_up(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything is kept.")] = Path("divbase-data"),
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; default: server.host.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on, 0 for any free one; default: server.port.")
    ] = None,
    config: Config = None,
) -> None:
    """Run DivBase on this machine: S3 server, SQLite, local scheduler and API, until Ctrl-C. The data stays.

    Example: divbase-gateway up --folder divbase-data
    """
    from divbase_gateway import embedded

    loaded = load(config).with_server(host=host, port=port)
    _end_in_order()
    set_up_logs("console" if sys.stderr.isatty() else "json", loaded.settings.server.log_level)
    with embedded.bring_up(loaded, folder) as stack:
        url = stack.gateway.settings.server.laptop_url
        typer.echo(f"DivBase is up at {url}; everything is in {folder}. Ctrl-C stops it, the data stays.", err=True)
        typer.echo(f"Sign in with: divbase login {url} --api-key-stdin < {stack.admin_key}", err=True)
        _serve(stack.gateway, stack.listener)


for _name, _command in operating.COMMANDS.items():
    app.command(_name)(_command)


def _end_in_order() -> None:
    """Let SIGTERM end the program as Ctrl-C does: by an exception, so that everything that was started is stopped.

    Its default would end it at once, also after uvicorn's shutdown, which raises the signal again.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _serve(gateway: Gateway, listener: socket.socket | None = None) -> None:
    """Answer requests, on the listening socket or on what the settings name, until SIGINT or SIGTERM."""
    import uvicorn

    from divbase_gateway.bootstrap import spare_the_collector

    url = gateway.settings.server.laptop_url
    structlog.get_logger().info("server.started", version=version("divbase-gateway"), url=url)
    config = server_config(gateway)
    spare_the_collector()
    # uvicorn raises the signal again once it has shut down, and that is how both commands are meant to end.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=None if listener is None else [listener])


def server_config(gateway: Gateway) -> uvicorn.Config:
    """How the gateway is served."""
    import uvicorn

    from divbase_gateway.api.app import create_app
    from divbase_gateway.api.heads import BoundedHeads

    server = gateway.settings.server
    # Our own layer logs every request, and without the query strings that uvicorn would log.
    return uvicorn.Config(
        create_app(gateway),
        http=BoundedHeads,
        host=server.host,
        port=server.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _create_first_admin(database: Database, email: str, name: str, values: Settings) -> str | None:
    """The text of the admin's new key; None where there is a site admin, after saying so."""
    now = SystemClock().now()
    with database.write() as session:
        admin = users.first_admin(session)
        if admin is not None:
            typer.echo(f"This site is set up already; {admin.email} is its site admin. Nothing was changed.", err=True)
            return None
        admin = users.create_user(session, email, name, is_admin=True, now=now)
        created = keys.create_key(session, admin, "first key", None, now, values.limits.keys_per_user)
        return str(created.text)


def _print_settings(loaded: LoadedSettings) -> None:
    table = Table("setting", "value", "source", title=f"file: {loaded.file or 'none'}")
    for line in loaded.lines():
        table.add_row(line.name, line.value, line.source)
    Console(markup=False, highlight=False).print(table)

"""Values for the shell to complete: profiles, projects, jobs, keys of files. It never fails and never waits long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from divbase_client.client import Client

    from divbase_cli.session import Session

_MOST = 50
_TIMEOUT = 2.0


def complete_profiles(ctx: typer.Context, incomplete: str) -> list[str]:
    return _quietly(ctx, incomplete, lambda session: session.config.profiles)


def complete_projects(ctx: typer.Context, incomplete: str) -> list[str]:
    return _quietly(ctx, incomplete, lambda session: (one.name for one in _client(session).projects.list()))


def complete_jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    return _quietly(ctx, incomplete, lambda session: (one.id for one in _client(session).jobs.list(session.project)))


def complete_snapshots(ctx: typer.Context, incomplete: str) -> list[str]:
    return _quietly(
        ctx, incomplete, lambda session: (one.name for one in _client(session).snapshots.list(session.project))
    )


def complete_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    return _quietly(
        ctx,
        incomplete,
        lambda session: (one.key for one in _client(session).files.list(session.project, prefix=incomplete)),
    )


def _client(session: Session) -> Client:
    from divbase_client.retry import Retry

    return session.client_for(session.url, session.key, timeout=_TIMEOUT, retry=Retry(attempts=1))


def _quietly(ctx: typer.Context, incomplete: str, look: Callable[[Session], Iterable[str]]) -> list[str]:
    from itertools import islice

    from divbase_cli.session import Options, Session

    try:
        given = {name: ctx.params.get(f"common_{name}") for name in ("profile", "url", "project")}
        session = Session(Options(json=True, **given))
        return list(islice((word for word in look(session) if word.startswith(incomplete)), _MOST))
    except Exception:  # noqa: BLE001 - a traceback in the middle of a command line helps no one
        return []

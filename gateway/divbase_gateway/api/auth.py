"""Who may call a route: `require(access)` is the one dependency that decides it, for every route of the app.

It knows kinds of access and turns a bearer token into a caller; it must not know what the routes do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import structlog
from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from divbase_gateway.api.deps import gateway_of
from divbase_gateway.api.routes import Later, Work, ask_permission
from divbase_gateway.db.models import AttemptRow
from divbase_gateway.domain.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from divbase_gateway.domain.projects import Role
from divbase_gateway.services import attempts, keys
from divbase_gateway.services.keys import Caller

_log = structlog.get_logger()


class Access(StrEnum):
    """Who may call a route that belongs to no project."""

    PUBLIC = "public"  # anybody
    USER = "user"  # anybody with an API key
    ADMIN = "admin"  # site admins
    JOB_TOKEN = "job token"  # noqa: S105 - a name; a job on its node, about its own attempt


@dataclass(frozen=True)
class ProjectAccess:
    """Members of the project in the path with at least this role, and with `admin` only the site admins among them (who
    have MANAGE everywhere); to everybody else the project does not exist."""

    role: Role
    admin: bool = False


_api_key = HTTPBearer(auto_error=False, scheme_name="API key", description="`dvb_xxxxxxxx.…`")
_job_token = HTTPBearer(auto_error=False, scheme_name="Job token", description="Given to one attempt of one job")

_ApiKey = Annotated[HTTPAuthorizationCredentials | None, Security(_api_key)]
_JobToken = Annotated[HTTPAuthorizationCredentials | None, Security(_job_token)]


def require(access: Access | ProjectAccess) -> Callable[..., Any]:
    """The dependency that lets only those through who have `access`.

    It gives a `Caller` for USER, ADMIN and ProjectAccess (`caller.project` and `.role` for the last), the `AttemptRow`
    for JOB_TOKEN (with its job) and None for PUBLIC; each once the route is at work (api/routes.py).

    Raises (when a request comes):
        Unauthenticated: no key, or not a good one.
        Forbidden: a known caller whose role is too low.
        NotFound: the project is not there, or not the caller's.
    """
    dependency = _dependency(access)
    dependency.access = access  # type: ignore[attr-defined]  # read by `access_of`
    return dependency


def access_of(dependency: object) -> Access | ProjectAccess | None:
    """The access that a dependency was made for; None where it is not one of `require`."""
    access: Access | ProjectAccess | None = getattr(dependency, "access", None)
    return access


def _dependency(access: Access | ProjectAccess) -> Callable[..., Any]:
    if isinstance(access, ProjectAccess):
        return _require_role(access.role, access.admin)
    makers: dict[Access, Callable[[], Callable[..., Any]]] = {
        Access.PUBLIC: _require_nothing,
        Access.USER: _require_user,
        Access.ADMIN: _require_admin,
        Access.JOB_TOKEN: _require_job_token,
    }
    return makers[access]()


def _require_nothing() -> Callable[[], Awaitable[None]]:
    async def authorize() -> None:
        return None

    return authorize


def _require_user() -> Callable[..., Awaitable[Later]]:
    async def authorize(request: Request, credentials: _ApiKey) -> Later:
        return _permission(request, credentials, lambda caller: None)

    return authorize


def _require_admin() -> Callable[..., Awaitable[Later]]:
    async def authorize(request: Request, credentials: _ApiKey) -> Later:
        return _permission(request, credentials, _require_site_admin)

    return authorize


def _require_site_admin(caller: Caller) -> None:
    if not caller.user.is_admin:
        raise Forbidden(
            "Only site admins may do this.",
            hint="Ask a site admin.",
            details={"needed": "site admin", "role": "user"},
        )


def _require_role(needed: Role, admin: bool) -> Callable[..., Awaitable[Later]]:
    def check(caller: Caller, project: str) -> None:
        if caller.membership is None:
            raise NotFound(
                f"There is no project {project!r}, or you are not a member of it.",
                hint="`divbase projects ls` lists yours.",
                details={"project": project},
            )
        if not caller.role.includes(needed):
            raise Forbidden(
                f"Your role in the project {project!r} is {caller.role}; this takes {needed}.",
                hint="Ask someone who has the role MANAGE in it.",
                details={"needed": needed.value, "role": caller.role.value, "project": project},
            )
        if admin:
            _require_site_admin(caller)

    async def authorize(
        request: Request, credentials: _ApiKey, project: Annotated[str, Path(description="Name of the project")]
    ) -> Later:
        return _permission(request, credentials, lambda caller: check(caller, project), project)

    return authorize


def _require_job_token() -> Callable[..., Awaitable[Later]]:
    async def authorize(
        request: Request, credentials: _JobToken, attempt: Annotated[str, Path(description="`<job>.<number>`")]
    ) -> Later:
        token = _token(credentials, "job token")

        def give(work: Work) -> AttemptRow:
            with _looking(request, work) as session:
                row = attempts.authenticate(session, attempt, token)
            request.state.user = f"attempt {attempt}"
            return row

        return ask_permission(request, Later(give))

    return authorize


def _permission(
    request: Request,
    credentials: HTTPAuthorizationCredentials | None,
    check: Callable[[Caller], None],
    project: str | None = None,
) -> Later:
    """A caller with a good key of whom `check` says nothing against."""
    token = _token(credentials, "API key")

    def give(work: Work) -> Caller:
        caller = _authenticate(request, work, token, project)
        check(caller)
        return caller

    return ask_permission(request, Later(give))


def _authenticate(request: Request, work: Work, token: str, project: str | None) -> Caller:
    now = gateway_of(request).clock.now()
    with _looking(request, work) as session:
        caller = keys.authenticate(session, token, now, project)
    request.state.user = caller.user.email
    if keys.needs_touch(caller.key, now):
        _touch(request, caller)
    return caller


def _looking(request: Request, work: Work) -> AbstractContextManager[Session]:
    """The session that the route reads with, else one for this look alone."""
    return gateway_of(request).sessions.read() if work.session is None else nullcontext(work.session)


def _token(credentials: HTTPAuthorizationCredentials | None, kind: str) -> str:
    if credentials is None:
        raise Unauthenticated(
            f"The request carries no {kind}.",
            hint="Send the header `Authorization: Bearer …`; the command line does it after `divbase login`.",
        )
    return credentials.credentials


def _touch(request: Request, caller: Caller) -> None:
    """Note the key's use in a transaction of its own; when the database is busy that can wait for the next request."""
    gateway = gateway_of(request)
    try:
        with gateway.sessions.write() as session:
            keys.touch(session, caller.key, gateway.clock.now())
    except Unavailable as error:
        _log.warning("key.touch_failed", key=caller.key.prefix, message=error.message)


User = Annotated[Caller, Depends(require(Access.USER))]
Admin = Annotated[Caller, Depends(require(Access.ADMIN))]
Reader = Annotated[Caller, Depends(require(ProjectAccess(Role.READ)))]
Querier = Annotated[Caller, Depends(require(ProjectAccess(Role.QUERY)))]
Editor = Annotated[Caller, Depends(require(ProjectAccess(Role.EDIT)))]
Manager = Annotated[Caller, Depends(require(ProjectAccess(Role.MANAGE)))]
ProjectAdmin = Annotated[Caller, Depends(require(ProjectAccess(Role.MANAGE, admin=True)))]
JobAttempt = Annotated[AttemptRow, Depends(require(Access.JOB_TOKEN))]
Public = Depends(require(Access.PUBLIC))

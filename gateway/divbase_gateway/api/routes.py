"""How a route is carried out: from the key to the answer in one worker thread. It must not know any noun of the API.

FastAPI gives each dependency that may wait, and the route, a thread of its pool, one after the other, and these hops
are a good part of what a look at a job takes (ADR 18). So a dependency that needs the database only says what it will
give (`Later`), and a `Route` has it given in the thread that the route itself runs in.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.orm import Session

READERS = 4
"""Routes at a time that only read the database. The interpreter runs one thread at a time, and SQLite hands it on at
every row: many readers at once take twice the processor time of a few."""
_limiter: RunVar[CapacityLimiter] = RunVar("readers")


class Work(ExitStack):
    """The time that one route takes, in its thread; what it has opened is closed at the end, the last first.

    `session` is the route's session for reading, where it has one: whoever has to look before the route shares it.
    """

    session: Session | None = None


class Turn(IntEnum):
    """In what order parameters are given, however the route's function names them: nothing is locked for a stranger."""

    READING = 0
    PERMISSION = 1
    REST = 2


@dataclass(frozen=True)
class Later:
    """Stands for a parameter of a route until the work begins; `give` makes it.

    `reads_only`: the route that has it waits for the database and for nothing else.
    """

    give: Callable[[Work], Any]
    turn: Turn = Turn.REST
    reads_only: bool = False


def ask_permission(request: Request, permission: Later) -> Later:
    """`permission`, which is also asked for where the request turns out to be no good before the work begins: what is
    wrong with it is told to those only who may call the route."""
    request.state.permission = permission

    def give(work: Work) -> Any:
        request.state.permission = None
        return permission.give(work)

    return Later(give, Turn.PERMISSION)


class Route(APIRoute):
    """A route whose function is given what stands for later, and whose wire model is the answer as it is: FastAPI
    would check the model a second time and go through it twice more to write it, in one more thread."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _at_work(endpoint, options.get("status_code") or 200), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_permitted(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception:
                permission: Later | None = getattr(request.state, "permission", None)
                if permission is not None:
                    await run_in_threadpool(_give, permission)
                raise

        return handle_permitted


def new_router(noun: str, prefix: str = "") -> APIRouter:
    """The router of one noun of the API."""
    return APIRouter(prefix=prefix, tags=[noun], route_class=Route)


def _at_work(endpoint: Callable[..., Any], status: int) -> Callable[..., Any]:
    if iscoroutinefunction(endpoint):
        return endpoint

    def work_on(given: dict[str, Any], waiting: list[tuple[str, Later]]) -> Any:
        with Work() as work:
            for name, later in sorted(waiting, key=lambda pair: pair[1].turn):
                given[name] = later.give(work)
            told = endpoint(**given)
        if isinstance(told, BaseModel):
            return Response(told.model_dump_json(), status, media_type="application/json")
        return told

    @wraps(endpoint)
    async def carry_out(**given: Any) -> Any:
        waiting = [(name, value) for name, value in given.items() if isinstance(value, Later)]
        few = _readers() if any(later.reads_only for _, later in waiting) else None
        return await to_thread.run_sync(work_on, given, waiting, limiter=few)

    return carry_out


def _readers() -> CapacityLimiter:
    """Of the event loop that runs."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(CapacityLimiter(READERS))
        return _limiter.get()


def _give(later: Later) -> None:
    with Work() as work:
        later.give(work)

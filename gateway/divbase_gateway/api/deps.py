"""What requests are given: the gateway and a session for reading or writing. It must not know any noun of the API.

A write session commits when the route's function has returned and before the answer is sent, and rolls back on any
error, so a client is never told of something that is not stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from divbase_gateway.api.routes import Later, Turn, Work
from divbase_gateway.db.session import Database
from divbase_gateway.ports import Clock, ObjectStore, Scheduler
from divbase_gateway.services.corrections import Corrections
from divbase_gateway.services.index_maps import MapCache
from divbase_gateway.services.policy import JobPolicy

if TYPE_CHECKING:
    from divbase_gateway.settings import Settings


class Gateway(Protocol):
    """What `bootstrap` builds, as far as requests use it. `wake` tells the reconciler that there is work."""

    @property
    def settings(self) -> Settings: ...
    @property
    def sessions(self) -> Database: ...
    @property
    def store(self) -> ObjectStore: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def policy(self) -> JobPolicy: ...
    @property
    def maps(self) -> MapCache: ...
    @property
    def corrections(self) -> Corrections: ...
    @property
    def wake(self) -> Callable[[], None]: ...


def gateway_of(request: Request) -> Gateway:
    """The gateway that this app was made for."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _gateway(request: Request) -> Gateway:
    return gateway_of(request)


async def _read(request: Request) -> Later:
    return Later(_reading(request), Turn.READING, reads_only=True)


async def _read_beside_s3(request: Request) -> Later:
    return Later(_reading(request), Turn.READING)


def _reading(request: Request) -> Callable[[Work], Session]:
    def give(work: Work) -> Session:
        work.session = work.enter_context(gateway_of(request).sessions.read())
        return work.session

    return give


async def _write(request: Request) -> AsyncIterator[Later]:
    yield Later(lambda work: work.enter_context(gateway_of(request).sessions.write()))


TheGateway = Annotated[Gateway, Depends(_gateway)]

# Readers of the database wait for each other (`routes.READERS`), but not for those who also wait for S3.
ReadSession = Annotated[Session, Depends(_read)]
ReadSessionBesideS3 = Annotated[Session, Depends(_read_beside_s3)]

# On SQLite writers wait for each other, in worker threads; so only some may, and readers find a thread.
WriteSession = Annotated[Session, Depends(_write, scope="function", max_concurrency=8)]

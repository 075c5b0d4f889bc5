"""The HTTP application: routers, errors and the layers around them, over a gateway that is already built."""

from __future__ import annotations

from functools import cache
from typing import Any

from divbase_client.models import Problem
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from divbase_gateway.api import (
    allocations,
    attempts,
    files,
    health,
    jobs,
    keys,
    metadata,
    projects,
    queries,
    snapshots,
    uploads,
    users,
)
from divbase_gateway.api.deps import Gateway
from divbase_gateway.api.errors import install_error_handlers
from divbase_gateway.api.requests import RequestLog
from divbase_gateway.services.health import Readiness

PREFIX = "/api/v1"

_NOUNS = (
    health,
    users,
    keys,
    projects,
    allocations,
    files,
    uploads,
    metadata,
    snapshots,
    queries,
    jobs,
    attempts,
)
"""The modules that have a `router`, in the order of the documentation."""


def create_app(gateway: Gateway) -> FastAPI:
    """The app of this gateway. It starts and stops nothing: who runs it closes the gateway."""
    app = FastAPI(openapi_url=None)  # and with it the documentation: the shared routes have both
    app.router.routes.extend(_all_routes().routes)
    app.state.gateway = gateway
    app.state.readiness = Readiness(gateway.sessions, gateway.store, gateway.scheduler, gateway.clock)
    app.state.templates = _templates()
    install_error_handlers(app)
    app.add_middleware(RequestLog, max_body_bytes=gateway.settings.server.max_body_mib * 1024 * 1024)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of the routes; it is the same for every site."""
    return _all_routes().openapi()


@cache
def _all_routes() -> FastAPI:
    """The routes alone. They know no gateway, and reading their signatures takes longer than many a request."""
    app = FastAPI(
        title="DivBase",
        version=health.VERSION,
        description="Query VCF files in S3 with bcftools on a shared cluster.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
        responses={"default": {"description": "Any error", "model": Problem}},
    )
    for noun in _NOUNS:
        app.include_router(noun.router, prefix=PREFIX)
    return app


@cache
def _templates() -> dict[Any, str | None]:
    """The path of each endpoint, as it is documented."""
    return {context.endpoint: context.path for context in iter_route_contexts(_all_routes().routes)}

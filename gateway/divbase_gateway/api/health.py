"""Routes for whoever watches the gateway: is it alive, and can it work? They tell names and words, no secrets."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from divbase_client.models import Health
from fastapi import Depends, Request, Response

from divbase_gateway.api.auth import Public
from divbase_gateway.api.routes import new_router
from divbase_gateway.services.health import Readiness

router = new_router("health")

VERSION = version("divbase-gateway")


async def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


@router.get("/health", dependencies=[Public])
async def get_health() -> Health:
    """The process answers. It looks at nothing else."""
    return Health(status="ok", version=VERSION)


@router.get("/ready", dependencies=[Public], response_model=Health, responses={503: {"model": Health}})
def get_ready(readiness: Annotated[Readiness, Depends(_readiness)]) -> Response:
    """Database, store and scheduler answer (looked at every five seconds at most, the scheduler every thirty); 503
    where one does not.

    Where the operator holds submission back, `checks.submission` says since when and why: that is no failure.
    """
    checks = readiness.checks()
    failing = not all(check.ok for check in checks)
    words = {check.name: "ok" if check.ok and not check.notable else check.words for check in checks}
    told = Health(status="failing" if failing else "ok", version=VERSION, checks=words)
    return Response(told.model_dump_json(), 503 if failing else 200, media_type="application/json")

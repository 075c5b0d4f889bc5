"""Routes about API keys. The answer to POST /keys is the only one that ever holds a secret."""

from __future__ import annotations

from typing import Annotated

from divbase_client import models
from fastapi import Query, Response

from divbase_gateway.api.auth import User
from divbase_gateway.api.deps import ReadSession, TheGateway, WriteSession
from divbase_gateway.api.idempotency import Once, idempotently
from divbase_gateway.api.pagination import Paging
from divbase_gateway.api.routes import new_router
from divbase_gateway.db.models import ApiKeyRow
from divbase_gateway.domain.errors import InvalidRequest
from divbase_gateway.services import keys, users

router = new_router("keys")

_SHOWN_ONCE = "The key was created by an earlier request; its secret is shown once. Revoke it and create another."


@router.get("/keys")
def list_keys(
    caller: User,
    session: ReadSession,
    paging: Paging,
    user: Annotated[str | None, Query(description="Email address; for site admins")] = None,
) -> models.Page[models.ApiKey]:
    """One's own keys, newest first, without their secrets."""
    keys.check_may_act_for(caller, user)
    owner = caller.user if user is None else users.get_user(session, user)
    found = keys.list_keys(session, owner, paging.after_id, paging.fetch)
    return paging.page(found, wire_key, lambda row: row.id)


@router.post("/keys", status_code=201, response_model=models.CreatedApiKey)
def create_key(new: models.NewApiKey, caller: User, session: WriteSession, gateway: TheGateway, once: Once) -> Response:
    """Make a key for oneself, or as a site admin for somebody else. The secret is in this answer and nowhere else."""
    keys.check_may_act_for(caller, new.user)
    _check_days(new.expires_in_days, gateway.settings.limits.api_key_days)

    def create() -> models.CreatedApiKey:
        owner = caller.user if new.user is None else users.get_user(session, new.user)
        limit = gateway.settings.limits.keys_per_user
        created = keys.create_key(session, owner, new.name, new.expires_in_days, gateway.clock.now(), limit)
        return models.CreatedApiKey(**wire_key(created.row).model_dump(), secret=str(created.text))

    return idempotently(once, session, caller, new, create, secret=_SHOWN_ONCE)


@router.delete("/keys/{key}")
def revoke_key(key: str, caller: User, session: WriteSession, gateway: TheGateway) -> models.ApiKey:
    """Revoke a key by id or prefix; it stays in the list."""
    return wire_key(keys.revoke_key(session, caller, key, gateway.clock.now()))


def wire_key(row: ApiKeyRow) -> models.ApiKey:
    return models.ApiKey(
        id=row.public_id,
        name=row.name,
        prefix=row.prefix,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def _check_days(asked: int | None, most: int) -> None:
    if asked is not None and asked > most:
        raise InvalidRequest(f"API keys live at most {most} days here; {asked} were asked for.", hint="Ask for fewer.")
